"""Limits of different parts fit into one another."""

from __future__ import annotations

from pathlib import Path

import yaml

from agentd.node import task_plan, tasks
from agentd.settings import Settings
from controlplane.sessions.lookup import STORE_BUDGET_S
from controlplane.sessions.mutate import ANSWER_S
from controlplane.settings import Settings as ControlPlaneSettings
from controlplane.snapshots.policy import Policy

WEBHOOKS = Path(__file__).parents[2] / "deploy/kubernetes/webhooks.yaml"


def test_defect_90_every_limit_is_above_the_waits_within_it() -> None:
    policy, deadlines = Policy(), Settings().deadlines
    seal_s = deadlines.checkpoint_s + deadlines.seal_s
    # A seal within an attempt of the agent, within its task, within the controller's patience,
    # within the life of the build Sandbox.
    assert seal_s < tasks.CREATE_S < task_plan.DEADLINE.total_seconds() <= policy.build_s
    assert policy.build_s < policy.build_expiry_s
    # A replacement is given up only after all attempts with their delays.
    delays_s = sum(policy.retry_delay(n).total_seconds() for n in range(1, policy.attempts))
    assert policy.attempts * policy.build_s + delays_s < policy.pending_s


def test_defect_71_a_read_of_the_store_fits_into_the_answer_of_the_webhook() -> None:
    (timeout_s,) = {
        webhook["timeoutSeconds"]
        for document in yaml.safe_load_all(WEBHOOKS.read_text())
        if document["kind"] == "MutatingWebhookConfiguration"
        for webhook in document["webhooks"]
    }
    assert STORE_BUDGET_S < ANSWER_S < timeout_s


def test_settings_of_the_control_plane_default_to_its_policy() -> None:
    settings, policy = ControlPlaneSettings().snapshots, Policy()
    assert settings.build_s == policy.build_s
    assert settings.node_grace_s == policy.node_grace_s
    assert settings.retired_grace_s == policy.retired_grace_s
    assert settings.deletion_grace_s == policy.deletion_grace_s
    assert settings.task_retention_s == policy.retention_s
