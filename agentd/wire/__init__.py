"""Message types, state types."""
