"""Define the part of AgentCube's CodeInterpreter that is read here."""

from __future__ import annotations

import enum

from controlplane.api.meta import Camel, JsonObject, ObjectMeta


class AuthMode(enum.StrEnum):
    """How the runtime in the sandbox knows its callers."""

    PICOD = "picod"
    NONE = "none"


class CodeInterpreterTemplate(Camel, frozen=True):
    """What a sandbox runs; Kubernetes' own parts as they were read."""

    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    runtime_class_name: str | None = None
    image: str = ""
    image_pull_policy: str = ""
    image_pull_secrets: tuple[JsonObject, ...] | None = None
    environment: tuple[JsonObject, ...] | None = None
    command: tuple[str, ...] | None = None
    args: tuple[str, ...] | None = None
    resources: JsonObject | None = None


class CodeInterpreterSpec(Camel, frozen=True):
    """What is read of the spec."""

    template: CodeInterpreterTemplate
    auth_mode: AuthMode = AuthMode.PICOD


class CodeInterpreterStatus(Camel, frozen=True):
    """conditions: as they were read, because one list holds those of several writers."""

    conditions: tuple[JsonObject, ...] | None = None


class CodeInterpreter(Camel, frozen=True):
    """Namespaced; AgentCube defines it."""

    metadata: ObjectMeta
    spec: CodeInterpreterSpec
    status: CodeInterpreterStatus = CodeInterpreterStatus()

    @property
    def needs_public_key(self) -> bool:
        """Its runtime verifies callers with the router's key."""
        return self.spec.auth_mode is AuthMode.PICOD
