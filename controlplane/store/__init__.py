"""Keep manifests in Redis, Valkey or SQLite."""
