"""The `snapctl template` commands."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import click

from agentd.cli.progress import StageProgress
from agentd.cli.settings import Settings, common_options, pass_settings
from agentd.cli.tables import Table, age, mib, ms
from agentd.cli.verify import verify_template
from agentd.client import calls, failures
from agentd.client.transport import Transport
from agentd.errors import ErrorCode, PermanentError, TransientError
from agentd.wire import api

_POLL_S = 0.2


@click.group()
def template() -> None:
    """Manage templates: frozen, warm machines that sessions are forked from."""


@template.command(
    epilog='\b\nExample:\n  snapctl template create python --image "$(snapctl image build)"\n'
)
@click.argument("name")
@click.option("--image", required=True, help="Image directory, or key.")
@click.option("--memory-mib", type=click.IntRange(min=1), help="Guest memory in MiB.")
@click.option("--vcpus", type=click.IntRange(min=1), help="Virtual cpus.")
@click.option("--no-wait", is_flag=True, help="Return as soon as the build has begun.")
@click.option(
    "--timeout", type=float, default=600.0, show_default=True, help="Seconds to wait for it."
)
@common_options
@pass_settings
def create(
    settings: Settings,
    name: str,
    image: str,
    memory_mib: int | None,
    vcpus: int | None,
    no_wait: bool,
    timeout: float,
) -> None:
    """Boot a guest once, warm it, freeze it."""
    where = str(Path(image).resolve()) if Path(image).is_dir() else image
    wish = api.CreateTemplate(name=name, image=where, memory_mib=memory_mib, vcpus=vcpus)
    with settings.transport() as transport:
        found = transport.send(calls.create_template(wish))
        if not no_wait:
            found = _wait(transport, found, timeout, is_quiet=settings.as_json)
    settings.show(found)
    settings.say(f"template {name} is {found.state.value}")


def _wait(
    transport: Transport, found: api.Template, timeout_s: float, *, is_quiet: bool
) -> api.Template:
    end = time.monotonic() + timeout_s
    with StageProgress(is_quiet=is_quiet) as bar:
        while found.state is api.TemplateState.BUILDING:
            if time.monotonic() > end:
                raise TransientError(
                    ErrorCode.DEADLINE_EXCEEDED,
                    f"template {found.name!r} is still building after {timeout_s:g} s",
                    hint=f"it goes on; watch it with `snapctl template show {found.name}`",
                )
            bar.update(found.stage or "building", found.progress, 1.0)
            time.sleep(_POLL_S)
            found = transport.send(calls.show_template(found.name))
    if found.state is api.TemplateState.READY:
        return found
    if found.error is not None:
        raise failures.error_of(found.error)
    raise PermanentError(
        ErrorCode.TEMPLATE_BUILD_FAILED, f"template {found.name!r} became {found.state.value}"
    )


@template.command("list", epilog="\b\nExample:\n  snapctl template list --json\n")
@common_options
@pass_settings
def list_(settings: Settings) -> None:
    """List the templates."""
    reply = settings.send(calls.list_templates())
    now = datetime.now(UTC)
    settings.show(
        reply,
        lambda: Table(
            ("NAME", "STATE", "AGE", "MEMORY MIB", "VCPUS", "DISK MIB", "SESSIONS", "STAGE"),
            [
                (
                    one.name,
                    one.state.value,
                    age(one.created_at, now),
                    str(one.memory_mib),
                    str(one.vcpus),
                    mib(one.size_bytes),
                    str(one.sessions),
                    one.error.message if one.error else one.stage,
                )
                for one in reply.templates
            ],
            numeric=frozenset({"MEMORY MIB", "VCPUS", "DISK MIB", "SESSIONS"}),
            empty="no templates; make one with `snapctl template create`",
        ),
    )


@template.command(epilog="\b\nExample:\n  snapctl template show python\n")
@click.argument("name")
@common_options
@pass_settings
def show(settings: Settings, name: str) -> None:
    """Show one template."""
    one = settings.send(calls.show_template(name))
    rows = [
        ("name", one.name),
        ("state", one.state.value),
        ("stage", f"{one.stage} {one.progress:.0%}".strip()),
        ("image", one.image),
        ("memory", f"{one.memory_mib} MiB"),
        ("vcpus", str(one.vcpus)),
        ("created", one.created_at),
        ("on disk", f"{mib(one.size_bytes)} MiB"),
        ("live sessions", str(one.sessions)),
        *((f"stage {stage}", f"{ms(value)} ms") for stage, value in one.stages_ms.items()),
    ]
    if one.error is not None:
        rows += [("error", one.error.message), ("hint", one.error.hint)]
    settings.show(one, lambda: Table(("MEMBER", "VALUE"), rows))


@template.command(epilog="\b\nExample:\n  snapctl template rm python\n")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@common_options
@pass_settings
def rm(settings: Settings, names: tuple[str, ...]) -> None:
    """Remove templates that no session uses."""
    with settings.transport() as transport:
        for name in names:
            transport.send(calls.remove_template(name))
            settings.say(f"removed {name}")
    settings.show({"removed": list(names)})


@template.command(epilog="\b\nExample:\n  snapctl template verify python\n")
@click.argument("name")
@common_options
@pass_settings
def verify(settings: Settings, name: str) -> int:
    """Check every byte of a template on disk, then on two forks that they share no identity.

    Exit code: 0, 42 if the forks share something, else that of the error, 50 for damaged files.
    """
    with settings.transport() as transport:
        checks = verify_template(transport, name)
    settings.show(
        {"template": name, "checks": checks},
        lambda: Table(
            ("CHECK", "RESULT", "DETAIL"),
            [(one.name, "ok" if one.is_ok else "fail", one.detail) for one in checks],
        ),
    )
    return 0 if all(one.is_ok for one in checks) else ErrorCode.GUEST_CONTAMINATED.exit_code
