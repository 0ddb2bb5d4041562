"""Wishes that are refused before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentd.errors import UsageError
from agentd.image.spec import ImageSpec


@pytest.mark.parametrize(
    "wish",
    [
        {"packages": ("-o=Dir::Bin::dpkg=/bin/sh",)},
        {"packages": ("numpy=1",)},
        {"packages": ("",)},
        {"preload": ("os; import evil",)},
        {"preload": ("numpy.",)},
        {"kernel_modules": ("../kvm",)},
        {"kernel_package": "Linux"},
        {"rootfs": Path("/srv/root"), "packages": ("python3-pandas",)},
    ],
    ids=lambda wish: str(sorted(wish.items())),
)
def test_a_bad_wish_is_refused(wish: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        ImageSpec(**wish)


def test_an_own_rootfs_needs_only_the_kernel() -> None:
    assert ImageSpec(rootfs=Path("/srv/root")).wanted_packages == ("linux-image-cloud-amd64",)


def test_added_packages_join_the_base_once() -> None:
    wanted = ImageSpec(packages=("python3-pandas", "dash")).wanted_packages
    assert wanted.count("dash") == 1
    assert "python3-pandas" in wanted
