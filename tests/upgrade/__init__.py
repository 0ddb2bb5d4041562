"""Replace agentd, the page server, the control plane under load, between two builds."""
