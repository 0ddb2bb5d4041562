"""Measure the adapters for Kuasar's sandboxer against the smallest clients there can be."""
