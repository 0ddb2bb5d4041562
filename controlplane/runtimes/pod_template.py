"""Make the Pod template of a CodeInterpreter.

The one place: the SandboxTemplate is made of it, and a session's Sandbox must equal it, or else the
session's hash differs and it starts cold. So the result is what AgentCube's workload manager puts
into a session, down to the name of the container.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from controlplane.api import names
from controlplane.api.meta import JsonObject
from controlplane.errors import InvariantError
from controlplane.runtimes.types import CodeInterpreter, CodeInterpreterTemplate

CONTAINER: Final = "code-interpreter"
PUBLIC_KEY_ENV: Final = "PICOD_AUTH_PUBLIC_KEY"


def pod_template_for(code_interpreter: CodeInterpreter, public_key: str) -> JsonObject:
    """The `podTemplate` of a Sandbox or a SandboxTemplate; members without content are left out.

    Args: public_key: the router's, PEM; may be empty if the authMode needs none.
    Raises: InvariantError if it is needed yet empty: every session would refuse its callers.
    """
    template = code_interpreter.spec.template
    if code_interpreter.needs_public_key and not public_key:
        raise InvariantError(
            f"make a Pod template of {code_interpreter.metadata.name!r}: no public key"
        )
    key = public_key if code_interpreter.needs_public_key else ""
    metadata = {
        "labels": _without(template.labels, names.SESSION_LABELS),
        "annotations": _without_restore(template.annotations),
    }
    return _filled({"metadata": _filled(metadata), "spec": _pod_spec(template, key)})


def _pod_spec(template: CodeInterpreterTemplate, public_key: str) -> JsonObject:
    return _filled(
        {
            "imagePullSecrets": list(template.image_pull_secrets or ()),
            "runtimeClassName": template.runtime_class_name,
            "containers": [_container(template, public_key)],
        }
    )


def _container(template: CodeInterpreterTemplate, public_key: str) -> JsonObject:
    return _filled(
        {
            "name": CONTAINER,
            "image": template.image,
            "imagePullPolicy": template.image_pull_policy,
            "env": _environment(template, public_key),
            "command": list(template.command or ()),
            "args": list(template.args or ()),
            "resources": template.resources,
        }
    )


def _environment(template: CodeInterpreterTemplate, public_key: str) -> list[JsonObject]:
    given = list(template.environment or ())
    if not public_key:
        return given
    others = [one for one in given if one.get("name") != PUBLIC_KEY_ENV]
    return [*others, {"name": PUBLIC_KEY_ENV, "value": public_key}]


def _without(pairs: Mapping[str, str] | None, keys: tuple[str, ...]) -> dict[str, str]:
    return {key: value for key, value in (pairs or {}).items() if key not in keys}


def _without_restore(annotations: Mapping[str, str] | None) -> dict[str, str]:
    return {
        key: value
        for key, value in (annotations or {}).items()
        if key != names.SNAPSHOT_KEY and not key.startswith(names.PROVIDER_RESTORE_PREFIXES)
    }


def _filled(members: Mapping[str, Any]) -> JsonObject:
    return {key: value for key, value in members.items() if value}
