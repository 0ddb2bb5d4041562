"""Decide whether a new session starts from a snapshot."""
