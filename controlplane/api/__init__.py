"""The objects of the API: shared by the control plane and by the node."""
