"""What agentd itself costs: its processor time, its share of a fan-out, its admission, its rest."""
