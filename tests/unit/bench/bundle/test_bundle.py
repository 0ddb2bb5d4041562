"""A bundle is what it says, or `verify` says where it is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentd.errors import UsageError
from bench.bundle import BundleWriter, Promised, Sample, read_bundle, verify_bundle
from bench.bundle.__main__ import main

PROMISE = Promised(name="fork", promised="< 9 ms", measured="3 ms", is_kept=True)


def sample(value: float | None, number: int = 0) -> Sample:
    error = "the machine\ndid not start" if value is None else None
    return Sample(
        series="fork",
        machine_kind="stand-in",
        cache="none",
        unit="ms",
        value=value,
        error=error,
        round=number,
        at_s=0.5,
    )


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    with BundleWriter(tmp_path / "b", "make bench", versions={"kuasar": "1"}) as writer:
        writer.add(*(sample(float(number), number) for number in range(20)))
        writer.add(sample(None, 20))
        writer.add_file("logs/fork.log", "it\u00a0broke\n")
        writer.promise(PROMISE)
    return tmp_path / "b"


def edit(path: Path, change: Callable[[Any], None]) -> None:
    doc = json.loads(path.read_bytes())
    change(doc)
    path.write_text(json.dumps(doc))


def test_what_is_written_is_read_and_is_valid(bundle: Path) -> None:
    assert verify_bundle(bundle) == []
    found = read_bundle(bundle)
    assert [one.value for one in found.samples] == [*map(float, range(20)), None]
    [figures] = found.percentiles
    assert (figures.n, figures.failures, figures.p50, figures.p95) == (20, 1, 9.0, 18.0)
    assert found.promises == [PROMISE]
    assert found.manifest.command == "make bench"
    assert {"snapstart", "python", "kernel", "kuasar"} == found.manifest.versions.keys()
    assert 0 <= found.manifest.steal_share <= 1
    assert list(bundle.parent.iterdir()) == [bundle]


@pytest.mark.parametrize(
    "name", ["samples.jsonl", "percentiles.json", "promises.json", "logs/fork.log"]
)
def test_a_changed_byte_is_found(bundle: Path, name: str) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[-1] ^= 1
    (bundle / name).write_bytes(content)
    assert any(one.startswith(f"{name}: its sha256 is ") for one in verify_bundle(bundle))


@pytest.mark.parametrize("name", ["samples.jsonl", "percentiles.json", "logs/fork.log"])
def test_a_missing_file_is_found(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    assert f"{name}: it is missing" in verify_bundle(bundle)


def test_a_file_too_many_is_found(bundle: Path) -> None:
    (bundle / "logs" / "more.log").write_text("more")
    assert verify_bundle(bundle) == ["logs/more.log: bundle.json does not list it"]


@pytest.mark.parametrize("left", ["samples.jsonl", "percentiles.json"])
def test_what_every_bundle_has_must_be_listed(bundle: Path, left: str) -> None:
    edit(bundle / "bundle.json", lambda doc: doc["files"].pop(left))
    assert f"{left}: bundle.json does not list it" in verify_bundle(bundle)


def test_a_percentile_that_is_not_that_of_the_samples_is_found(bundle: Path) -> None:
    edit(bundle / "percentiles.json", lambda doc: doc[0].update(p95=17.0))
    [digest, figure] = verify_bundle(bundle)
    assert digest.startswith("percentiles.json: its sha256 is ")
    assert figure.endswith(": p95 is 17.0, the samples give 18.0")


def test_a_forged_percentile_is_found_when_its_digest_is_forged_too(bundle: Path) -> None:
    from agentd.image.files import hash_file

    edit(bundle / "percentiles.json", lambda doc: doc[0].update(failures=0))
    digest = hash_file(bundle / "percentiles.json")
    edit(bundle / "bundle.json", lambda doc: doc["files"].update({"percentiles.json": digest}))
    [problem] = verify_bundle(bundle)
    assert problem.endswith(": failures is 0, the samples give 1")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda doc: doc.clear(), "it is missing"),
        (lambda doc: doc[0].update(series="x"), "it has no samples"),
        (lambda doc: doc.append(doc[0]), "a group is there twice"),
        (lambda doc: doc[0].update(more=1), "unknown field"),
    ],
    ids=["no group", "another group", "twice", "unknown field"],
)
def test_groups_are_those_of_the_samples(
    bundle: Path, change: Callable[[Any], None], words: str
) -> None:
    edit(bundle / "percentiles.json", change)
    assert any(words in one for one in verify_bundle(bundle)[1:])


@pytest.mark.parametrize(
    ("schema", "words"),
    [(2, "schema 2 is unknown, this program reads 1"), ("1", "Expected `int`")],
)
def test_an_unknown_schema_is_refused(bundle: Path, schema: object, words: str) -> None:
    edit(bundle / "bundle.json", lambda doc: doc.update(schema=schema))
    [problem] = verify_bundle(bundle)
    assert words in problem
    with pytest.raises(UsageError, match="schema"):
        read_bundle(bundle)


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "logs/../../secret", "./samples.jsonl", "logs//x", "a\0b"]
)
def test_a_hostile_path_is_not_opened(bundle: Path, name: str) -> None:
    (bundle.parent / "secret").write_text("x")
    edit(bundle / "bundle.json", lambda doc: doc["files"].update({name: "0" * 64}))
    assert verify_bundle(bundle) == [f"{name!r}: such a path is no file of a bundle; not opened"]


@pytest.mark.parametrize("name", ["samples.jsonl", "logs"])
def test_a_link_out_of_the_bundle_is_not_followed(bundle: Path, name: str) -> None:
    (bundle / name).rename(bundle.parent / "elsewhere")
    (bundle / name).symlink_to(bundle.parent / "elsewhere")
    assert any("symbolic links" in one or "directory" in one for one in verify_bundle(bundle))


@pytest.mark.parametrize("name", ["bundle.json", "samples.jsonl", "percentiles.json"])
def test_a_file_that_is_cut_off_is_a_problem_and_no_traceback(bundle: Path, name: str) -> None:
    content = (bundle / name).read_bytes()
    for size in range(0, len(content), 37):
        (bundle / name).write_bytes(content[:size])
        assert verify_bundle(bundle)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[]", b"null", b'{"schema": 1}'])
def test_garbage_is_a_problem_and_no_traceback(bundle: Path, content: bytes) -> None:
    for name in ("bundle.json", "samples.jsonl", "percentiles.json", "promises.json"):
        (bundle / name).write_bytes(content)
        assert verify_bundle(bundle)


def test_a_bundle_that_was_cut_in_the_middle_of_writing_is_none(tmp_path: Path) -> None:
    writer = BundleWriter(tmp_path / "b", "x")
    with writer:
        writer.add(sample(1.0))
        [problem] = verify_bundle(tmp_path / "b.unfinished")
        assert "bundle.json is missing" in problem
        assert not (tmp_path / "b").exists()
    assert verify_bundle(tmp_path / "b") == []


def test_a_run_that_fails_leaves_nothing_and_the_former_bundle(bundle: Path) -> None:
    before = (bundle / "bundle.json").read_bytes()
    with pytest.raises(KeyboardInterrupt), BundleWriter(bundle, "again"):
        raise KeyboardInterrupt
    assert list(bundle.parent.iterdir()) == [bundle]
    assert (bundle / "bundle.json").read_bytes() == before


def test_a_bundle_that_cannot_be_finished_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError), BundleWriter(tmp_path / "b", "x"):
        (tmp_path / "b.unfinished" / "percentiles.json").mkdir()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_swept(tmp_path: Path) -> None:
    left = tmp_path / "b.unfinished" / "logs"
    left.mkdir(parents=True)
    (left / "old.log").write_text("old")
    with BundleWriter(tmp_path / "b", "x") as writer:
        writer.add(sample(1.0))
    assert "logs/old.log" not in read_bundle(tmp_path / "b").manifest.files
    assert verify_bundle(tmp_path / "b") == []


def test_a_bundle_is_replaced_and_nothing_else_is(bundle: Path, tmp_path: Path) -> None:
    with BundleWriter(bundle, "again"):
        pass
    assert read_bundle(bundle).manifest.command == "again"
    (tmp_path / "mine").mkdir()
    with pytest.raises(UsageError, match="no bundle"), BundleWriter(tmp_path / "mine", "x"):
        pass


def test_two_runs_do_not_write_one_bundle(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "b", "first") as first:
        first.add(sample(1.0))
        with pytest.raises(UsageError, match="another run"), BundleWriter(tmp_path / "b", "second"):
            pass
    assert len(read_bundle(tmp_path / "b").samples) == 1


@pytest.mark.parametrize("name", ["../x", "/x", "", "bundle.json", "samples.jsonl", "a/../b"])
def test_a_file_of_a_bad_name_is_refused(tmp_path: Path, name: str) -> None:
    with BundleWriter(tmp_path / "b", "x") as writer, pytest.raises(UsageError, match="name"):
        writer.add_file(name, "x")


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_says_what_it_found(
    bundle: Path, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    argv = ["verify", str(bundle), *(["--json"] if as_json else [])]
    assert main(argv) == 0
    (bundle / "logs" / "fork.log").unlink()
    assert main(argv) == 1
    lines = capsys.readouterr().out.splitlines()
    problem = "logs/fork.log: it is missing"
    if as_json:
        assert [json.loads(one) for one in lines] == [
            {"bundle": str(bundle), "is_valid": True, "problems": []},
            {"bundle": str(bundle), "is_valid": False, "problems": [problem]},
        ]
    else:
        assert lines == [f"{bundle}: valid", problem, f"{bundle}: NOT VALID"]
