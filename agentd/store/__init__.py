"""Templates on disk."""
