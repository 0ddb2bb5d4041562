"""What has to be in a wheel, in an sdist, and what must not."""

from __future__ import annotations

from tests.package.contents import SDIST, sdist_problems, wheel_problems

GOOD = {
    "agentd/_core.cpython-311-x86_64-linux-gnu.so": 0o100755,
    "agentd/_cold.cpython-311-x86_64-linux-gnu.so": 0o100755,
    "agentd/snap-pager": 0o100755,
    "agentd/_version.py": 0o100644,
    "agentd/_core.pyi": 0o100644,
    "agentd/_cold.pyi": 0o100644,
    "agentd/py.typed": 0o100644,
    "agentd/guest/__main__.py": 0o100644,
    "agentd/kuasar/pb/cri_pb2.py": 0o100644,
    "agentd/kuasar/pb/cri_pb2.pyi": 0o100644,
    "agentd/kuasar/pb/sandbox_pb2.py": 0o100644,
    "agentd/kuasar/pb/ssi_pb2.py": 0o100644,
    "controlplane/cli.py": 0o100644,
    "x-1.data/data/share/snapstart/agentd.service": 0o100644,
    "x-1.dist-info/licenses/LICENSE": 0o100644,
    "x-1.dist-info/entry_points.txt": 0o100644,
}


def test_a_wheel_with_everything_is_right() -> None:
    assert wheel_problems(GOOD) == []


def test_a_page_server_that_cannot_be_executed_is_a_problem() -> None:
    assert wheel_problems(GOOD | {"agentd/snap-pager": 0o100644}) == [
        "agentd/snap-pager has mode 100644"
    ]


def test_a_module_that_was_not_built_is_missed() -> None:
    members = {name: mode for name, mode in GOOD.items() if "_core.cpython" not in name}
    assert wheel_problems(members) == [r"agentd/_core\..*\.so is in the wheel 0 times"]


def test_tests_have_no_place_in_a_wheel() -> None:
    members = GOOD | {"tests/conftest.py": 0o100644}
    assert wheel_problems(members) == ["tests/conftest.py has no place in the wheel"]


def test_an_sdist_holds_sources_and_nothing_built() -> None:
    assert sdist_problems(SDIST) == []
    assert sdist_problems([*SDIST, "agentd/snap-pager"]) == [
        "agentd/snap-pager is made by the build"
    ]
    assert sdist_problems(SDIST[1:]) == [f"{SDIST[0]} is not in the sdist"]
