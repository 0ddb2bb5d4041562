"""Templates, forks, sessions of one node."""
