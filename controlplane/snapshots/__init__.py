"""Reconcile SandboxSnapshots."""
