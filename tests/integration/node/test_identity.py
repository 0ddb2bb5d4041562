"""No two forks of one template are the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from agentd.client import Sandbox
from agentd.wire.demo import Identity
from bench.identity import read_identity
from bench.node import Node
from tests.integration.node.conftest import TEMPLATE
from tests.integration.node.images import UNSEEDED_MAIN, build_changed_image

pytestmark = [pytest.mark.vm, pytest.mark.timeout(400)]

FORKS = 64
AT_ONCE = 4
CLOCK_SLACK_NS = 50_000_000
# What must differ; `docs/operator.md` names what cannot change, with the reason for each.
SOURCES = (
    "urandom", "random", "numpy", "uuid4", "uuid1", "hostname", "machine_id", "boot_id"
)  # fmt: skip


def repeated_sources(identities: Sequence[Identity]) -> list[str]:
    """The sources that gave two forks the same value."""
    rows = [msgspec.to_builtins(one) for one in identities]
    return [name for name in SOURCES if len({row[name] for row in rows}) < len(rows)]


def ask_many(node: Node, template: str, count: int) -> list[Identity]:
    """Fork, ask, end; several at a time."""

    def ask(_number: int) -> Identity:
        with node.create(template) as sandbox:
            return read_identity(sandbox)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(ask, range(count)))


def digest_template(node: Node, template: str) -> str:
    """Of every byte a fork depends on; the checksum beside them comes later."""
    directory = node.root / "data" / "templates" / template
    digest = hashlib.sha256()
    for name in ("manifest.json", "memory", "device_state"):
        digest.update(name.encode() + (directory / name).read_bytes())
    return digest.hexdigest()


def test_sixty_four_forks_share_no_identity_value(node: Node) -> None:
    before = digest_template(node, TEMPLATE)
    identities = ask_many(node, TEMPLATE, FORKS)
    assert len(identities) == FORKS
    assert repeated_sources(identities) == []
    late = [
        one
        for one in identities
        if not one.host_send_ns - CLOCK_SLACK_NS
        <= one.guest_clock_ns
        <= one.host_receive_ns + CLOCK_SLACK_NS
    ]
    assert late == []
    assert digest_template(node, TEMPLATE) == before


def test_a_fork_sees_nothing_of_another(node: Node) -> None:
    with node.create(TEMPLATE) as one, node.create(TEMPLATE) as other:
        one.run_code("import os; secret = 1; os.environ['SECRET'] = '1'")
        one.files.write("secret.txt", "x")
        one.run_code("open('/tmp/secret', 'w').write('x')")
        seen = other.run_code(
            "import os\n"
            "[name for name in ('secret.txt', '/tmp/secret') if os.path.exists(name)], "
            "'secret' in globals(), 'SECRET' in os.environ"
        )
        assert seen.text == "([], False, False)"
        assert other.files.list() == []


@contextmanager
def sessions(node: Node, count: int) -> Iterator[list[Sandbox]]:
    """Live forks, ended with the block."""
    live: list[Sandbox] = []
    try:
        for _ in range(count):
            live.append(node.create(TEMPLATE))
        yield live
    finally:
        for sandbox in live:
            sandbox.kill()


def test_a_session_has_its_environment_with_its_files(node: Node) -> None:
    with Sandbox.create(
        TEMPLATE, envs={"COLOUR": "blue"}, files={"in/data.txt": b"42"}, socket=node.socket
    ) as sandbox:
        seen = sandbox.run_code("import os; os.environ['COLOUR'], open('in/data.txt').read()")
        assert seen.text == "('blue', '42')"


def test_the_hostname_is_the_one_the_daemon_tells(node: Node) -> None:
    with sessions(node, 2) as live:
        names = [sandbox.run_code("import socket; socket.gethostname()").text for sandbox in live]
        assert names == [repr(sandbox.info.hostname) for sandbox in live]
        assert names[0] != names[1]


def test_without_reseeding_the_same_check_fails(node: Node, tmp_path: Path) -> None:
    image = build_changed_image(tmp_path, UNSEEDED_MAIN)
    node.build_template("unseeded", str(image.directory))
    identities = ask_many(node, "unseeded", 3)
    assert set(repeated_sources(identities)) >= {"random", "numpy", "hostname", "machine_id"}
