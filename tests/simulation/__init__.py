"""A seeded world in which control plane, agents, API server, store misbehave together."""
