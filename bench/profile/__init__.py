"""Show as a flame graph where a series of measurements, or agentd in it, spends processor time."""
