"""Use a node without a pause, and see that nothing of it grows."""
