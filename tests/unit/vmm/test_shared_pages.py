"""Whether memory that is shared may have huge pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentd.vmm.shared_pages import has_huge_shared_pages

WORDS = ("always", "within_size", "advise", "never", "deny", "force")


def write(path: Path, chosen: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        " ".join(f"[{word}]" if word == chosen else word for word in (*WORDS, "inherit"))
    )


@pytest.mark.parametrize("chosen", WORDS)
def test_only_never_and_deny_keep_pages_small(tmp_path: Path, chosen: str) -> None:
    write(tmp_path / "kernel/mm/transparent_hugepage/shmem_enabled", chosen)
    assert has_huge_shared_pages(tmp_path) is (chosen not in ("never", "deny"))


@pytest.mark.parametrize(
    ("chosen", "has"), [("inherit", False), ("never", False), ("always", True)]
)
def test_one_size_may_have_a_rule_of_its_own(tmp_path: Path, chosen: str, has: bool) -> None:
    pages = tmp_path / "kernel/mm/transparent_hugepage"
    write(pages / "shmem_enabled", "never")
    write(pages / "hugepages-64kB/shmem_enabled", "never")
    write(pages / "hugepages-2048kB/shmem_enabled", chosen)
    assert has_huge_shared_pages(tmp_path) is has


def test_a_kernel_without_huge_pages_has_none(tmp_path: Path) -> None:
    assert not has_huge_shared_pages(tmp_path)


def test_what_cannot_be_read_may_be_so(tmp_path: Path) -> None:
    (tmp_path / "kernel/mm/transparent_hugepage").mkdir(parents=True)
    assert has_huge_shared_pages(tmp_path)
