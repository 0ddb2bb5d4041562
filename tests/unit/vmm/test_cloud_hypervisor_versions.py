"""What each version can do, and which way of restoring is chosen for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agentd.units import MIB
from agentd.vmm.cloud_hypervisor_versions import (
    RestoreFacts,
    RestoreMode,
    Version,
    can_offload,
    choose_restore,
    has_shared,
    keeps_console,
    keeps_memory_in_file,
)

EVERYTHING = RestoreFacts(
    version=Version(54), is_shared=True, can_map=True, has_pages=True, can_fault=True
)
NOTHING = RestoreFacts(
    version=Version(48), is_shared=False, can_map=False, has_pages=False, can_fault=False
)
# What is left to decide where nothing can be mapped.
UNMAPPED = replace(EVERYTHING, version=Version(53), can_map=False)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("v53.0", Version(53)),
        ("53.0.0", Version(53)),
        ("v51.1", Version(51, 1)),
        ("v53.0-246-gae44c2971-dirty", Version(53)),
        ("v50.2", Version(50, 2)),
    ],
)
def test_a_release_is_read_off_what_a_build_calls_itself(text: str, version: Version) -> None:
    assert Version.parse(text) == version


@pytest.mark.parametrize("text", ["", "v", "main", "v53", "x53.0"])
def test_what_is_no_release_is_none(text: str) -> None:
    assert Version.parse(text) is None


def test_releases_are_ordered_and_printed_as_their_notes_count_them() -> None:
    assert Version(51, 2) < Version(52) < Version(100)
    assert str(Version(53)) == "v53.0"


@pytest.mark.parametrize(
    ("facts", "mode"),
    [
        (EVERYTHING, RestoreMode.COPY_ON_WRITE),
        (replace(EVERYTHING, version=Version(53)), RestoreMode.MAPPED),
        (replace(NOTHING, can_map=True), RestoreMode.MAPPED),
        (UNMAPPED, RestoreMode.OFFLOAD),
        (replace(UNMAPPED, is_shared=False), RestoreMode.ON_DEMAND),
        (replace(UNMAPPED, has_pages=False), RestoreMode.ON_DEMAND),
        (replace(UNMAPPED, version=Version(52)), RestoreMode.ON_DEMAND),
        (replace(UNMAPPED, can_fault=False), RestoreMode.COPY),
        (replace(NOTHING, can_fault=True, version=Version(52)), RestoreMode.ON_DEMAND),
        (replace(NOTHING, can_fault=True, version=Version(51, 2)), RestoreMode.COPY),
        (replace(NOTHING, version=Version(53)), RestoreMode.COPY),
        (NOTHING, RestoreMode.COPY),
    ],
    ids=[
        "everything",
        "v53_has_no_mapping_of_its_own",
        "v48_can_map",
        "a_page_server_that_knows_what_clones_touch",
        "memory_that_is_not_shared",
        "a_page_server_that_knows_nothing",
        "v52_has_no_offload",
        "offload_takes_a_userfaultfd",
        "v52_on_demand",
        "v51_would_ignore_on_demand",
        "no_userfaultfd",
        "nothing",
    ],
)
def test_the_best_way_that_is_possible_is_chosen(facts: RestoreFacts, mode: RestoreMode) -> None:
    choice = choose_restore(facts)
    assert choice.mode is mode
    assert choice.why


def test_pages_that_v53_would_take_from_huge_ones_are_not_left_to_it() -> None:
    """It takes what the kernel has there for what the page server wrote."""
    huge = replace(UNMAPPED, has_huge=True)
    assert choose_restore(huge).mode is RestoreMode.ON_DEMAND
    assert not can_offload(huge)
    assert can_offload(replace(huge, version=Version(54)))


def test_modes_that_did_not_keep_their_promise_are_passed_over_down_to_copying() -> None:
    spoiled: set[RestoreMode] = set()
    order = []
    for _ in RestoreMode:
        order.append(choose_restore(replace(EVERYTHING, spoiled=frozenset(spoiled))).mode)
        spoiled.add(order[-1])
    assert order == list(RestoreMode)
    everything = replace(EVERYTHING, spoiled=frozenset(RestoreMode))
    assert choose_restore(everything).mode is RestoreMode.COPY


def test_no_mode_is_asked_of_a_version_that_would_ignore_it() -> None:
    """An older version restores by copying, and reports success."""
    for major in range(48, 60):
        mode = choose_restore(replace(NOTHING, version=Version(major), can_fault=True)).mode
        if major < 52:
            assert mode is RestoreMode.COPY
        elif major < 54:
            assert mode is RestoreMode.ON_DEMAND
        else:
            assert mode is RestoreMode.COPY_ON_WRITE


@pytest.mark.parametrize(
    ("private_mib", "data_mib", "shares"),
    [(10, 400, True), (199, 400, True), (200, 400, False), (400, 400, False), (31, 20, True)],
)
def test_a_clone_that_holds_most_of_its_template_does_not_share_it(
    private_mib: int, data_mib: int, shares: bool
) -> None:
    assert has_shared(private_mib * MIB, data_mib * MIB) is shares


def test_one_version_keeps_all_memory_in_files() -> None:
    assert [v for v in range(48, 56) if keeps_memory_in_file(Version(v, 1))] == [52]


def test_consoles_keep_their_output_since_v53() -> None:
    assert not keeps_console(Version(52))
    assert keeps_console(Version(53))
