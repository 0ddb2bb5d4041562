"""The one Pod template of a CodeInterpreter."""

from __future__ import annotations

import pytest

from controlplane.api import names
from controlplane.errors import InvariantError
from controlplane.runtimes.pod_template import pod_template_for
from tests.unit.controlplane.runtimes.objects import KEY, an_interpreter


def test_the_pod_is_what_a_session_of_the_workload_manager_runs() -> None:
    owner = an_interpreter(
        labels={"team": "a"},
        annotations={"note": "b"},
        runtimeClassName="snapstart",
        imagePullPolicy="Never",
        imagePullSecrets=[{"name": "pull"}],
        environment=[{"name": "LANG", "value": "C"}],
        command=["/picod"],
        args=["--port", "8080"],
        resources={"limits": {"cpu": "1"}},
    )
    assert pod_template_for(owner, KEY) == {
        "metadata": {"labels": {"team": "a"}, "annotations": {"note": "b"}},
        "spec": {
            "imagePullSecrets": [{"name": "pull"}],
            "runtimeClassName": "snapstart",
            "containers": [
                {
                    "name": "code-interpreter",
                    "image": "py:1",
                    "imagePullPolicy": "Never",
                    "env": [
                        {"name": "LANG", "value": "C"},
                        {"name": "PICOD_AUTH_PUBLIC_KEY", "value": KEY},
                    ],
                    "command": ["/picod"],
                    "args": ["--port", "8080"],
                    "resources": {"limits": {"cpu": "1"}},
                }
            ],
        },
    }


def test_members_without_content_are_left_out() -> None:
    bare = pod_template_for(an_interpreter(auth_mode="none", runtimeClassName=""), "")
    assert bare == {"spec": {"containers": [{"name": "code-interpreter", "image": "py:1"}]}}


def test_without_authentication_the_key_stays_out() -> None:
    assert (
        "env"
        not in pod_template_for(an_interpreter(auth_mode="none"), KEY)["spec"]["containers"][0]
    )


def test_a_needed_key_that_is_unknown_is_never_left_out() -> None:
    with pytest.raises(InvariantError, match="no public key"):
        pod_template_for(an_interpreter(), "")


def test_the_users_own_key_is_replaced() -> None:
    owner = an_interpreter(environment=[{"name": "PICOD_AUTH_PUBLIC_KEY", "value": "forged"}])
    [container] = pod_template_for(owner, KEY)["spec"]["containers"]
    assert container["env"] == [{"name": "PICOD_AUTH_PUBLIC_KEY", "value": KEY}]


def test_what_restores_or_names_a_session_does_not_pass() -> None:
    owner = an_interpreter(
        annotations={names.SNAPSHOT_KEY: "k", "kuasar.io/template-key": "k", "note": "b"},
        labels={names.SESSION_ID: "s", "team": "a"},
    )
    assert pod_template_for(owner, KEY)["metadata"] == {
        "labels": {"team": "a"},
        "annotations": {"note": "b"},
    }
