"""Serve control planes of the first form: their templates on this node, over HTTP."""
