"""A Kubernetes of this machine with two virtual nodes: what `make demo-cluster` runs."""
