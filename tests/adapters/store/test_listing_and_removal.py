"""What the store shows, what it lets go."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from agentd.errors import ErrorCode, UsageError
from tests.adapters.store.support import (
    closing,
    frozen_guest,
    leftovers,
    open_store,
    seal_one,
)


def test_templates_are_listed_by_name(data_dir: Path) -> None:
    with open_store(data_dir) as store:
        assert store.list() == ()
        for name in ("b", "a", "c"):
            with frozen_guest(name) as request:
                store.seal(request)
        assert [stored.manifest.name for stored in store.list()] == ["a", "b", "c"]
        assert store.list()[0] == store.inspect("a")


def test_what_cannot_be_served_is_listed_apart_with_its_reason(tmp_path: Path) -> None:
    for name in ("cut", "good", "headless"):
        seal_one(tmp_path, name)
    templates = tmp_path / "templates"
    (templates / "cut" / "memory").write_bytes(b"")
    (templates / "headless" / "manifest.json").unlink()
    (templates / "half-made").mkdir(mode=0o700)
    (templates / "Not A Name").mkdir()
    (templates / "file").touch()
    (templates / "link").symlink_to("good")
    with open_store(tmp_path) as store:
        assert [stored.manifest.name for stored in store.list()] == ["good"]
        assert {broken.name: broken.error.code for broken in store.list_broken()} == {
            "cut": ErrorCode.TEMPLATE_CORRUPT,
            "headless": ErrorCode.TEMPLATE_CORRUPT,
            "half-made": ErrorCode.TEMPLATE_CORRUPT,
            "Not A Name": ErrorCode.NAME_INVALID,
            "file": ErrorCode.TEMPLATE_CORRUPT,
            "link": ErrorCode.TEMPLATE_CORRUPT,
        }
    assert len(leftovers(tmp_path)) == 7  # reported, not deleted


def test_removing_gives_the_space_back(data_dir: Path) -> None:
    seal_one(data_dir)
    with open_store(data_dir) as store:
        store.remove("python")
        assert store.list() == ()
        assert leftovers(data_dir) == []
        with pytest.raises(UsageError) as caught:
            store.remove("python")
        assert caught.value.code is ErrorCode.TEMPLATE_NOT_FOUND
        with frozen_guest() as request:
            store.seal(request)


@pytest.mark.parametrize("what", ["cut", "headless", "file", "link"])
def test_a_broken_template_can_be_removed(tmp_path: Path, what: str) -> None:
    good = seal_one(tmp_path, "good")
    broken = good.with_name(what)
    if what in ("cut", "headless"):
        seal_one(tmp_path, what)
        (broken / ("memory" if what == "cut" else "manifest.json")).unlink()
    elif what == "file":
        broken.touch()
    else:
        broken.symlink_to("good")
    with open_store(tmp_path) as store:
        store.remove(what)
        assert leftovers(tmp_path) == ["templates/good"]
        store.verify("good")


def test_a_leased_template_is_not_removed(data_dir: Path) -> None:
    seal_one(data_dir)
    with open_store(data_dir) as store:
        with ExitStack() as leases:
            leases.enter_context(store.lease("python"))
            leases.enter_context(store.lease("python"))
            with pytest.raises(UsageError, match="in use by 2 sessions") as caught:
                store.remove("python")
            assert caught.value.code is ErrorCode.TEMPLATE_IN_USE
            with closing(store.load("python")):
                pass
        store.remove("python")


def test_a_lease_ends_with_its_block_however_it_ends(data_dir: Path) -> None:
    seal_one(data_dir)
    with open_store(data_dir) as store:
        with pytest.raises(RuntimeError), store.lease("python"):
            raise RuntimeError
        store.remove("python")
        with pytest.raises(UsageError) as caught, store.lease("python"):
            raise AssertionError("leased what is not there")
        assert caught.value.code is ErrorCode.TEMPLATE_NOT_FOUND


def test_leases_are_counted_across_threads(tmp_path: Path) -> None:
    seal_one(tmp_path)
    with open_store(tmp_path) as store:
        barrier = threading.Barrier(8)

        def churn() -> None:
            barrier.wait(10)
            for _ in range(300):
                with store.lease("python"):
                    pass

        threads = [threading.Thread(target=churn, name=f"churn-{n}") for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        store.remove("python")


def test_of_many_threads_that_seal_one_name_one_wins(tmp_path: Path) -> None:
    with open_store(tmp_path) as store, frozen_guest() as request:
        barrier, outcomes = threading.Barrier(4), []

        def seal() -> None:
            barrier.wait(10)
            try:
                outcomes.append(store.seal(request).template_id)
            except UsageError as exc:
                outcomes.append(exc.code)

        threads = [threading.Thread(target=seal, name=f"seal-{n}") for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert outcomes.count(ErrorCode.TEMPLATE_EXISTS) == 3
        assert store.inspect("python").manifest.template_id in outcomes
        store.verify("python")
    assert leftovers(tmp_path) == ["templates/python"]
