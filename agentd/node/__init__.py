"""Do what the cluster orders of this node."""
