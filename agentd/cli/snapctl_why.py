"""The `snapctl why` command."""

from __future__ import annotations

import click

from agentd.cli.cluster import Where, ask, cluster_options, list_all, read
from agentd.cli.settings import Settings, common_options, pass_settings
from agentd.cli.tables import Table
from agentd.cli.why import Explanation, explain_start
from controlplane.api.core import Pod, Sandbox
from controlplane.api.meta import JsonObject
from controlplane.errors import NotFoundError
from controlplane.kube.api import KubeApi
from controlplane.kube.resource import EVENTS, PODS
from controlplane.kube.sandboxes import discover_sandboxes, pod_name


@click.command(epilog="\b\nExample:\n  snapctl why python-4kd82hs7 -n team\n")
@click.argument("sandbox")
@cluster_options
@common_options
@pass_settings
def why(settings: Settings, where: Where, sandbox: str) -> None:
    """Say whether a session was restored or started cold, and the reason."""
    found = ask(where, lambda api: _explain(api, sandbox, where.namespace))
    settings.show(found, lambda: Table(("MEMBER", "VALUE"), _rows(found)))


async def _explain(api: KubeApi, name: str, namespace: str) -> Explanation:
    resource = (await discover_sandboxes(api)).sandboxes
    sandbox = read(await api.get(resource, name, namespace), Sandbox)
    try:
        pod = read(await api.get(PODS, pod_name(sandbox), namespace), Pod)
    except NotFoundError:
        pod = None
    fields = f"involvedObject.kind=Pod,involvedObject.name={pod_name(sandbox)},type=Warning"
    events = await list_all(api, EVENTS, namespace=namespace, fields=fields)
    return explain_start(sandbox, pod, [describe_event(event) for event in by_time(events)])


def by_time(events: list[JsonObject]) -> list[JsonObject]:
    """Oldest first."""
    return sorted(
        events, key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or ""
    )


def describe_event(event: JsonObject) -> str:
    """One line."""
    count = event.get("count") or 1
    times = f" ({count} times)" if count > 1 else ""
    return f"{event.get('reason', '')}: {event.get('message', '')}{times}"


def _rows(found: Explanation) -> list[tuple[str, str]]:
    return [
        ("sandbox", f"{found.namespace}/{found.sandbox}"),
        ("start", found.start.value),
        ("reason", found.reason or "-"),
        ("meaning", found.text or "-"),
        ("snapshot key", found.key or "-"),
        ("pod", found.pod or "-"),
        ("node", found.node or "-"),
        *(("warning", event) for event in found.events),
    ]
