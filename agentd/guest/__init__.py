"""Run inside a guest: supervisor, warm-fork server, code interpreter (standard library only)."""
