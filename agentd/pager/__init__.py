"""Talk to the node's page server, and keep one running (docs/memory.md)."""
