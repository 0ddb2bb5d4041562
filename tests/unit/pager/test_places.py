"""Where the page server's program and files are."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentd.pager.places import (
    KuasarPlace,
    PagerPlace,
    choose_journal_dir,
    filesystem_of,
    own_binary,
)

ON_DISK = """\
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
25 22 0:22 / /dev rw - devtmpfs udev rw
26 25 0:23 / /dev/shm rw shared:4 - tmpfs tmpfs rw
"""
USUAL = ON_DISK + "27 22 0:24 / /run rw,nosuid shared:5 master:1 - tmpfs tmpfs rw,size=400k\n"
CONTROL = Path("/run/snapstart/pager.sock")
RUN = Path("/run/snapstart")


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/run/snapstart/pager", "tmpfs"),
        ("/run", "tmpfs"),
        ("/runner", "ext4"),
        ("/dev/shm/x", "tmpfs"),
        ("/dev/kvm", "devtmpfs"),
        ("/var/lib/../../run/x", "tmpfs"),
        ("/", "ext4"),
    ],
)
def test_a_path_is_on_the_mount_with_the_longest_name(path: str, kind: str) -> None:
    assert filesystem_of(Path(path), USUAL) == kind


def test_of_two_mounts_in_one_place_the_later_one_counts() -> None:
    covered = USUAL + "40 27 254:2 / /run rw - xfs /dev/vdb rw\n"
    assert filesystem_of(RUN, covered) == "xfs"


def test_a_mount_point_with_a_blank_is_read_as_it_is() -> None:
    line = "41 22 0:30 / /mnt/my\\040files rw - tmpfs none rw\n"
    assert filesystem_of(Path("/mnt/my files/x"), ON_DISK + line) == "tmpfs"


@pytest.mark.parametrize("text", ["", "nonsense\n", "1 2 3 4 5\n", " - \n"])
def test_what_cannot_be_read_is_not_known(text: str) -> None:
    assert filesystem_of(RUN, text) == ""


def test_the_journal_is_in_the_run_directory_where_that_stays_in_memory() -> None:
    assert choose_journal_dir(CONTROL, RUN, USUAL) == RUN / "pager"


def test_the_journal_is_in_shared_memory_where_the_run_directory_is_on_a_disk() -> None:
    first = choose_journal_dir(CONTROL, RUN, ON_DISK)
    assert first.parent == Path("/dev/shm")
    assert choose_journal_dir(CONTROL, RUN, ON_DISK) == first, "a successor finds it again"
    assert choose_journal_dir(Path("/run/b/pager.sock"), RUN, ON_DISK) != first


def test_the_program_is_told_all_of_its_place() -> None:
    place = PagerPlace(Path("/b/snap-pager"), CONTROL, RUN / "pager", 10.0, 4)
    assert place.argv("serve") == [
        "/b/snap-pager", "serve", "--control", "/run/snapstart/pager.sock",
        "--journal", "/run/snapstart/pager", "--readers", "4", "--hand-over-s", "10",
    ]  # fmt: skip


def test_a_sandboxer_s_socket_is_told_with_its_directory() -> None:
    kuasar = KuasarPlace(Path("/tmp/u"), Path("/k"), Path("/data/sets"), 3, 128)
    place = PagerPlace(Path("/p"), CONTROL, RUN, 2.5, 1, kuasar)
    assert place.argv("supervise")[-12:] == [
        "--hand-over-s", "2.5", "--kuasar-socket", "/tmp/u", "--kuasar-directory", "/k",
        "--kuasar-sets", "/data/sets", "--kuasar-records", "3", "--kuasar-set-mib", "128",
    ]  # fmt: skip


def test_the_program_s_own_place_is_beside_the_package() -> None:
    import agentd

    assert own_binary().parent == Path(str(agentd.__file__)).parent
