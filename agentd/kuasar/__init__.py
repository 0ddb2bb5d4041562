"""Speak with Kuasar's sandboxer, in either of its two forms."""
