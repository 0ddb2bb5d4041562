"""Pages do what they say: their commands are run as they stand there, in their order."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from agentd.image import Image
from tests.integration.docs.pages import (
    START_DAEMON,
    TIMEOUT_S,
    run_script,
    script_of,
    section,
    somebody,
)

pytestmark = [pytest.mark.vm, pytest.mark.timeout(TIMEOUT_S + 30)]


@pytest.fixture
def env(tmp_path: Path, guest_image: Image) -> Iterator[Mapping[str, str]]:
    with somebody(tmp_path, guest_image) as found:
        yield found


def test_the_quick_start(env: Mapping[str, str]) -> None:
    text = run_script(script_of(section("quickstart.md")), env)
    # The value of `x + 1`, by command and by client, and one answer of each of four forks.
    assert len(re.findall(r"^21$", text, re.M)) == 2, text
    assert len(set(re.findall(r"'([0-9a-f]{8})'", text))) == 4, text


def test_the_worked_example_of_a_runtime_author(env: Mapping[str, str]) -> None:
    example = script_of(section("runtime-authors.md", "A worked example"))
    text = run_script(f"{START_DAEMON}{example}kill %1\n", env)
    assert len(set(re.findall(r"'((?:red|green)-[0-9a-f]{16})'", text))) == 2, text


def test_looking_at_the_page_server(env: Mapping[str, str]) -> None:
    shown = script_of(section("memory.md", "Running it"))
    ours = shown.replace("/run/snapstart/agentd.sock", env["SNAPSTART_SOCKET"])
    text = run_script(f"{START_DAEMON}{ours}kill %1\n", env)
    assert '"pager"' in text


def test_a_command_that_fails_ends_the_script() -> None:
    page = "```sh\nfalse\n```\n\n```sh\necho went on\n```\n"
    done = subprocess.run(["bash", "-c", script_of(page)], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
