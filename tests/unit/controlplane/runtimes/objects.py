"""Objects that the tests of this package share."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from controlplane.api.meta import JsonObject
from controlplane.runtimes.plan import desired_template
from controlplane.runtimes.pod_template import pod_template_for
from controlplane.runtimes.types import CodeInterpreter

NOW = datetime(2030, 1, 1, tzinfo=UTC)
KEY = "-----BEGIN PUBLIC KEY-----"
API_VERSION = "extensions.agents.x-k8s.io/v1alpha1"


def an_interpreter(
    *, conditions: tuple[JsonObject, ...] = (), auth_mode: str = "picod", **template: Any
) -> CodeInterpreter:
    body = {
        "metadata": {
            "name": "python",
            "namespace": "team",
            "uid": "u1",
            "generation": 3,
            "resourceVersion": "7",
        },
        "spec": {"template": {"image": "py:1", **template}, "authMode": auth_mode},
        "status": {"conditions": conditions},
    }
    return msgspec.convert(body, CodeInterpreter)


def a_template(owner: CodeInterpreter) -> JsonObject:
    """As the API server holds it after our write."""
    return desired_template(owner, pod_template_for(owner, KEY), API_VERSION)
