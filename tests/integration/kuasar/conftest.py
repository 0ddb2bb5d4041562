"""Sandboxers to ask: a stand-in of each form, and the real one that KUASAR_BIN names.

KUASAR_BIN: a sandboxer of the Cloud Hypervisor kind; it is run as it is, without a VM, and needs
root. KUASAR_CONFIG: its settings as TOML, with `@STORE@` where its store is named; without it some
that suffice are made.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import grpc
import pytest

from agentd.kuasar.client import Form

from .files import Kept
from .places import Place, Program, Real, StandIn

# What channels share is closed some time after the last of them; this one is there to the end.
_NEVER_CONNECTED = grpc.insecure_channel("unix:/nonexistent")


class OpenPlace(Protocol):
    """Make a sandboxer, which does not serve yet."""

    def __call__(self, *kept: Kept, has_pool: bool = True) -> Place: ...


@pytest.fixture(scope="session")
def program() -> Program | None:
    """What KUASAR_BIN names; its form is told by its flags."""
    path = os.environ.get("KUASAR_BIN")
    if not path:
        return None
    done = subprocess.run([path, "--help"], capture_output=True, text=True, timeout=60, check=True)
    form = Form.GRPC if "--grpc-listen" in done.stdout else Form.JSON
    config = os.environ.get("KUASAR_CONFIG")
    return Program(Path(path), form, Path(config).read_text() if config else "")


@pytest.fixture
def directory() -> Iterator[Path]:
    """Short enough for the path of a socket."""
    with tempfile.TemporaryDirectory(prefix="ks-") as found:
        yield Path(found)


def _stand_in(form: Form, directory: Path) -> OpenPlace:
    def open_place(*kept: Kept, has_pool: bool = True) -> Place:
        return StandIn(directory, form, kept, has_pool=has_pool)

    return open_place


def _real(program: Program | None, form: Form | None, directory: Path) -> OpenPlace:
    """form: None: whichever it is."""
    if program is None:
        pytest.skip("KUASAR_BIN does not name a sandboxer")
    if form not in (None, program.form):
        pytest.skip(f"KUASAR_BIN names a sandboxer of the form {program.form}, not {form}")
    if os.geteuid() != 0:
        pytest.skip("a real sandboxer makes cgroups, which takes root")

    def open_place(*kept: Kept, has_pool: bool = True) -> Place:
        return Real(directory, program, kept, has_pool=has_pool)

    return open_place


def _either(kind: str, form: Form, program: Program | None, directory: Path) -> OpenPlace:
    return _stand_in(form, directory) if kind == "stand-in" else _real(program, form, directory)


@pytest.fixture(params=["stand-in", "real"])
def open_json(
    request: pytest.FixtureRequest, program: Program | None, directory: Path
) -> OpenPlace:
    """A sandboxer of the JSON form."""
    return _either(request.param, Form.JSON, program, directory)


@pytest.fixture(params=["stand-in", "real"])
def open_grpc(
    request: pytest.FixtureRequest, program: Program | None, directory: Path
) -> OpenPlace:
    """A sandboxer of the gRPC form."""
    return _either(request.param, Form.GRPC, program, directory)


@pytest.fixture(params=["JSON stand-in", "gRPC stand-in", "real"])
def open_place(
    request: pytest.FixtureRequest, program: Program | None, directory: Path
) -> OpenPlace:
    """A sandboxer of either form."""
    if request.param == "real":
        return _real(program, None, directory)
    form = Form.JSON if request.param.startswith("JSON") else Form.GRPC
    return _stand_in(form, directory)


@pytest.fixture
def open_real(program: Program | None, directory: Path) -> OpenPlace:
    """The real one, for what no stand-in has."""
    return _real(program, None, directory)
