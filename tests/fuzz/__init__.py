"""Fuzzing of the page server's parsers."""
