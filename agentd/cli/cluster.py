"""Talk to a cluster on behalf of a snapctl command."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import click
import msgspec

from agentd.errors import ErrorCode, SnapStartError
from controlplane import errors
from controlplane.api.meta import JsonObject
from controlplane.kube.api import KubeApi, Page
from controlplane.kube.resource import Resource

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])

_CALL_S: Final = 15.0
_PATIENCE: Final = 10
_PATIENCE_S: Final = 2.0
_CODES: Final[tuple[tuple[type[errors.ControlPlaneError], ErrorCode], ...]] = (
    (errors.ConfigError, ErrorCode.CONFIG_INVALID),
    (errors.RejectedError, ErrorCode.REQUEST_INVALID),
    (errors.NotFoundError, ErrorCode.OBJECT_NOT_FOUND),
    (errors.AlreadyExistsError, ErrorCode.OBJECT_EXISTS),
    (errors.ConflictError, ErrorCode.OBJECT_EXISTS),
    (errors.ForbiddenError, ErrorCode.PERMISSION_DENIED),
    (errors.UnavailableError, ErrorCode.CLUSTER_UNREACHABLE),
)


@dataclass(frozen=True)
class Where:
    """Which cluster, which namespace; empty texts are kubectl's defaults."""

    kubeconfig: str = ""
    context: str = ""
    namespace: str = "default"


def cluster_options(command: Command) -> Command:
    """Give a command --kubeconfig, --context, --namespace; it gets a `Where` as `where`."""

    @functools.wraps(command)
    def wrapped(*args: Any, kubeconfig: str, context: str, namespace: str, **rest: Any) -> Any:
        return command(*args, where=Where(kubeconfig, context, namespace), **rest)

    options = (
        click.option(
            "--namespace", "-n", default="default", show_default=True, help="Of the objects."
        ),
        click.option("--context", default="", help="Of the kubeconfig [default: its current one]."),
        click.option(
            "--kubeconfig",
            default="",
            metavar="PATH",
            help="[default: $KUBECONFIG, the Pod's own account, ~/.kube/config].",
        ),
    )
    result: Any = wrapped
    for option in options:
        result = option(result)
    typed: Command = result
    return typed


def ask(where: Where, question: Callable[[KubeApi], Awaitable[T]]) -> T:
    """Run a question against the cluster. Raises: SnapStartError, whatever goes wrong there."""
    try:
        return asyncio.run(_ask(where, question))
    except errors.ControlPlaneError as exc:
        raise translate(exc) from exc


async def _ask(where: Where, question: Callable[[KubeApi], Awaitable[T]]) -> T:
    # Imported when used: it takes as long to load as all other commands together.
    from controlplane.kube.client import open_kube
    from controlplane.kube.connect import KubeSettings

    settings = KubeSettings(
        kubeconfig=where.kubeconfig,
        context=where.context,
        user_agent="snapctl",
        call_timeout_s=_CALL_S,
    )
    async with await open_kube(settings) as api:
        return await question(api)


def translate(exc: errors.ControlPlaneError) -> SnapStartError:
    """The command line's error for a cluster's."""
    code = next((code for kind, code in _CODES if isinstance(exc, kind)), ErrorCode.INTERNAL)
    hint = exc.hint
    if not hint and code is ErrorCode.CLUSTER_UNREACHABLE:
        hint = "check --kubeconfig and --context, and that the API server runs"
    return SnapStartError(code, exc.message, hint=hint)


async def list_all(
    api: KubeApi, resource: Resource, *, namespace: str = "", labels: str = "", fields: str = ""
) -> list[JsonObject]:
    """Every object, page by page."""
    items: list[JsonObject] = []
    page = ""
    while True:
        call = functools.partial(
            api.list, resource, namespace=namespace, labels=labels, fields=fields, page=page
        )
        found = await _list_page(call)
        items += found.items
        page = found.next_page
        if not page:
            return items


async def _list_page(call: Callable[[], Awaitable[Page]]) -> Page:
    """One page; a server that asks for patience, as for a kind just installed, gets some."""
    for _ in range(_PATIENCE):
        try:
            return await call()
        except errors.UnavailableError as exc:
            if not exc.delay_s:
                raise
            await asyncio.sleep(min(exc.delay_s, _PATIENCE_S))
    return await call()


def read(body: JsonObject, kind: type[T]) -> T:
    """A typed copy. Raises: SnapStartError if the cluster holds something of another form."""
    try:
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as exc:
        name = (body.get("metadata") or {}).get("name")
        raise SnapStartError(
            ErrorCode.REQUEST_INVALID,
            f"reading {kind.__name__} {name!r}: {exc}",
            hint="its CustomResourceDefinition is of another release",
        ) from exc
