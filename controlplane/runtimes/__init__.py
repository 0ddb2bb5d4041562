"""Turn business runtimes into SandboxTemplates."""
