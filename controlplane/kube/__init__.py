"""Talk to Kubernetes: the only package that does."""
