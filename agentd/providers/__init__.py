"""Take snapshots through one provider each."""
