"""Measurements of speed and memory, on real machines."""
