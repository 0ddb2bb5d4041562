"""Settings are read from file and environment, each with its origin, all problems at once."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from agentd.typed_settings import Finding, Group, Source, read, show_json, show_toml, tell


class Door(Group, frozen=True):
    """A door."""

    # How wide.
    width_cm: int = 80
    # Where its key is.
    key: Path | None = None
    colours: tuple[str, ...] = ()
    # Of whom.
    owner: str = ""


class House(Group, frozen=True):
    """A house."""

    front: Door = Door()
    back: Door = Door()


SOURCE = Source(
    House,
    "HOUSE_",
    "ask the architect",
    foreign=("HOUSE_OF_",),
    places={"front.key": Path("/default")},
    fallbacks={"back.owner": "USER"},
)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "house.toml"
    path.write_text(text)
    return path


def test_every_value_has_its_origin(tmp_path: Path) -> None:
    file = write(tmp_path, "[front]\nwidth_cm = 90\n[back]\nwidth_cm = 70\n")
    environ = {"HOUSE_BACK__WIDTH_CM": "75", "USER": "ann", "HOUSE_OF_CARDS__X": "1", "HOUSE_X": ""}
    reading = read(SOURCE, file, environ)
    assert reading.problems == ()
    assert (reading.settings.front.width_cm, reading.settings.back.width_cm) == (90, 75)
    origins = {key: (one.kind, one.name) for key, one in reading.origins.items()}
    assert origins["front.width_cm"] == ("file", str(file))
    assert origins["back.width_cm"] == ("environment", "HOUSE_BACK__WIDTH_CM")
    assert origins["back.owner"] == ("environment", "USER")
    assert origins["front.key"] == ("default", "")
    assert reading.settings.front.key == Path("/default")


def test_all_problems_are_found_at_once_each_with_its_place(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        '[front]\nwidth_cm = "wide"\nwidht_cm = 1\nkey = ""\n[roof]\nx = 1\n[back]\ncolours = 1\n',
    )
    environ = {"HOUSE_BACK__WIDTH_CM": "broad", "HOUSE_CELLAR__X": "1"}
    found = {one.key: one.where for one in read(SOURCE, file, environ).problems}
    assert found == {
        "front.width_cm": str(file),
        "front.widht_cm": str(file),
        "front.key": str(file),
        "roof": str(file),
        "back.colours": str(file),
        "back.width_cm": "environment variable HOUSE_BACK__WIDTH_CM",
        "cellar.x": "environment variable HOUSE_CELLAR__X",
    }


def test_a_bad_value_in_the_file_is_told_though_a_variable_replaces_it(tmp_path: Path) -> None:
    file = write(tmp_path, '[front]\nwidth_cm = "wide"\n')
    (problem,) = read(SOURCE, file, {"HOUSE_FRONT__WIDTH_CM": "1"}).problems
    assert problem.key == "front.width_cm"


def test_a_file_that_cannot_be_read_hides_no_problem_of_the_environment(tmp_path: Path) -> None:
    problems = read(SOURCE, tmp_path / "none", {"HOUSE_X__Y": "1"}).problems
    assert [one.where for one in problems] == [
        str(tmp_path / "none"),
        "environment variable HOUSE_X__Y",
    ]


@pytest.mark.parametrize("harm", ["mode", "owner"])
def test_a_file_that_others_may_write_is_refused(tmp_path: Path, harm: str) -> None:
    """It names the programs that are run."""
    file = write(tmp_path, "[front]\nwidth_cm = 90\n")
    if harm == "mode":
        file.chmod(0o666)
    elif os.geteuid() == 0:
        os.chown(file, 65534, 65534)
    else:
        pytest.skip("only root can give a file away")
    (problem,) = read(SOURCE, file, {}).problems
    assert problem.where == str(file)
    assert ("uid 65534" if harm == "owner" else "0666") in problem.what


def test_what_follows_from_a_known_problem_is_not_told(tmp_path: Path) -> None:
    reading = read(SOURCE, write(tmp_path, '[front]\nwidth_cm = "x"\n'), {})
    follows = Finding(("front.width_cm", "back.width_cm"), "front is narrower", "widen it")
    other = Finding(("back.owner",), "nobody owns it", "buy it")
    checked = reading.checked([follows, other])
    assert [one.what for one in checked.problems[1:]] == ["nobody owns it"]


def test_a_finding_names_what_the_operator_wrote_not_the_default(tmp_path: Path) -> None:
    file = write(tmp_path, "[back]\nwidth_cm = 10\n")
    reading = read(SOURCE, file, {})
    clash = Finding(("front.width_cm", "back.width_cm"), "they differ", "make them equal")
    (problem,) = reading.checked([clash]).problems
    assert tell(problem) == f"reading settings from {file}: they differ; make them equal"


def test_what_is_shown_is_toml_with_origins_and_can_be_read_again(tmp_path: Path) -> None:
    file = write(tmp_path, '[front]\nkey = "/a\\"b"\ncolours = ["red", "\\u007f"]\n')
    reading = read(SOURCE, file, {})
    shown = show_toml(reading)
    assert f"# {file}" in shown
    assert "# default" in shown
    assert read(SOURCE, write(tmp_path, shown), {}).settings == reading.settings


def test_programs_get_values_origins_problems_as_json() -> None:
    told = msgspec.json.decode(show_json(read(SOURCE, None, {"HOUSE_BACK__WIDTH_CM": "x"})))
    assert told["ok"] is False
    assert told["problems"][0]["key"] == "back.width_cm"
    first = {"key": "front.width_cm", "value": 80, "origin": "default", "from": ""}
    assert told["settings"][0] == first
