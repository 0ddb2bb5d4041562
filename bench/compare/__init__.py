"""Compare two builds of this project on this machine, run in turn: better, worse, or no telling."""
