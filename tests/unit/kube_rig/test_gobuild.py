"""What is built, from what, and what is said when it cannot be."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.kube import gobuild
from tests.kube.assets import MODULES, SANDBOX_VERSIONS, named_by_environment, sandbox_recipe
from tests.kube.gobuild import GoBuilder, NoClusterError, Recipe, run_with_progress

GO = """#!/bin/sh
case "$1" in
version) echo "go version go1.26.0 linux/amd64" ;;
build)
  echo "example.test/one"
  [ -e fail ] && { echo "one.go:1: broken" >&2; exit 1; }
  while [ "$1" != -o ]; do shift; done
  echo built >> count; echo program > "$2" ;;
mod) echo "{\\"Dir\\": \\"$PWD\\"}" ;;
esac
"""


@pytest.fixture
def module(tmp_path: Path) -> Path:
    folder = tmp_path / "module"
    (folder / "crds").mkdir(parents=True)
    (folder / "go.mod").write_text("module example.test/one\n\nrequire example.test/lib v1.35.4\n")
    (folder / "crds" / "a.yaml").write_text("kind: A\n")
    return folder


@pytest.fixture
def recipe(module: Path) -> Recipe:
    return Recipe(
        name="one",
        module=module,
        package=".",
        program="one",
        links=("other",),
        source="example.test/lib",
        copies=("crds/*.yaml",),
        version_of="example.test/lib",
    )


@pytest.fixture
def builder(tmp_path: Path) -> GoBuilder:
    go = tmp_path / "go"
    go.write_text(GO)
    go.chmod(0o755)
    return GoBuilder(tmp_path / "cache", go=str(go), tell=lambda line: None)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("go version go1.26.8 linux/amd64\n", (1, 26)),
        ("go version go1.25rc1 linux/amd64", (1, 25)),
        ("go version devel +abc", None),
        ("", None),
    ],
)
def test_the_version_of_go_is_read(text: str, version: tuple[int, int] | None) -> None:
    assert gobuild.parse_go_version(text) == version


def test_the_version_that_a_module_requires_is_found() -> None:
    text = "require (\n\tk8s.io/kubernetes v1.35.4\n)\nreplace k8s.io/api => k8s.io/api v0.35.4\n"
    assert gobuild.required_version(text, "k8s.io/kubernetes") == "v1.35.4"
    with pytest.raises(ValueError, match="does not require"):
        gobuild.required_version(text, "io/kubernetes")


def test_the_linker_is_told_the_version_of_kubernetes() -> None:
    told = gobuild.linker_flags("v1.35.4")
    assert "version.gitVersion=v1.35.4" in told
    assert "version.gitMajor=1" in told
    assert "version.gitMinor=35" in told
    assert gobuild.linker_flags(None) == "-s -w"


def test_what_was_built_is_taken_the_second_time(
    builder: GoBuilder, recipe: Recipe, module: Path
) -> None:
    folder = builder.obtain(recipe)
    assert builder.obtain(recipe) == folder
    assert (folder / "other").read_text() == "program\n"
    assert (folder / "manifests" / "crds" / "a.yaml").read_text() == "kind: A\n"
    assert (module / "count").read_text() == "built\n"


def test_a_changed_source_is_built_anew(builder: GoBuilder, recipe: Recipe, module: Path) -> None:
    before = builder.obtain(recipe)
    (module / "main.go").write_text("package main\n")
    assert builder.obtain(recipe) != before


def test_two_who_build_at_once_build_once(builder: GoBuilder, recipe: Recipe, module: Path) -> None:
    threads = [threading.Thread(target=builder.obtain, args=(recipe,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (module / "count").read_text() == "built\n"


def test_a_failed_build_names_the_step_with_its_output(
    builder: GoBuilder, recipe: Recipe, module: Path, tmp_path: Path
) -> None:
    (module / "fail").touch()
    with pytest.raises(NoClusterError, match="one: go build: ended with 1") as caught:
        builder.obtain(recipe)
    assert "one.go:1: broken" in caught.value.why
    (module / "fail").unlink()
    assert builder.obtain(recipe).is_dir()


def test_a_missing_manifest_leaves_nothing_that_looks_complete(
    builder: GoBuilder, recipe: Recipe, module: Path, tmp_path: Path
) -> None:
    (module / "crds" / "a.yaml").unlink()
    with pytest.raises(NoClusterError, match=r"crds/\*\.yaml"):
        builder.obtain(recipe)
    assert not [path for path in (tmp_path / "cache").glob("one-*") if path.suffix != ".half"]


def test_go_that_is_too_old_is_refused(tmp_path: Path) -> None:
    go = tmp_path / "go"
    go.write_text("#!/bin/sh\necho go version go1.19.8 linux/amd64\n")
    go.chmod(0o755)
    with pytest.raises(NoClusterError, match=r"older than Go 1\.25"):
        gobuild.find_go(str(go))


def test_a_build_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'], stdin=0)"
    slow = [sys.executable, "-c", code.replace("input()", "import time; time.sleep(60)")]
    with pytest.raises(NoClusterError, match="step: not done after"):
        run_with_progress(
            slow,
            cwd=tmp_path,
            log=tmp_path / "log",
            step="step",
            tell=lambda line: None,
            limit_s=0.0,
            progress_s=0.2,
        )


def test_one_who_waits_is_told_how_far_it_is(tmp_path: Path) -> None:
    told: list[str] = []

    def tell(line: str) -> None:
        told.append(line)
        (tmp_path / "told").touch()

    run_with_progress(
        ["sh", "-c", "echo example.test/one; until [ -e told ]; do sleep 0.05; done"],
        cwd=tmp_path,
        log=tmp_path / "log",
        step="one: go build",
        tell=tell,
        progress_s=0.3,
    )
    assert told[-1].startswith("one: go build: ")
    assert told[-1].endswith(" s, 1 packages, now example.test/one")


def test_the_own_variable_of_a_part_wins_over_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    for path in (folder / "etcd", tmp_path / "mine"):
        path.touch()
    env = {"KUBEBUILDER_ASSETS": str(folder)}
    assert named_by_environment("etcd", env) == folder / "etcd"
    assert named_by_environment("kube-scheduler", env) is None
    assert named_by_environment("etcd", {}) is None
    own = {**env, "TEST_ASSET_ETCD": str(tmp_path / "mine")}
    assert named_by_environment("etcd", own) == tmp_path / "mine"


def test_a_variable_that_names_nothing_is_refused() -> None:
    with pytest.raises(NoClusterError, match="TEST_ASSET_KUBE_APISERVER='/none' names no file"):
        named_by_environment("kube-apiserver", {"TEST_ASSET_KUBE_APISERVER": "/none"})


def test_every_library_of_kubernetes_is_replaced_by_the_same_minor() -> None:
    text = (MODULES / "kubernetes" / "go.mod").read_text()
    version = gobuild.required_version(text, "k8s.io/kubernetes")
    block = text.partition("replace (")[2].partition(")")[0].splitlines()
    wanted = {"v0." + version.partition(".")[2]}
    assert {line.split()[-1] for line in block if line.strip()} == wanted


def test_each_version_of_agent_sandbox_has_a_module_with_checksums() -> None:
    for version in SANDBOX_VERSIONS:
        folder = sandbox_recipe(version).module
        assert "sigs.k8s.io/agent-sandbox v0." in (folder / "go.sum").read_text()


def test_the_build_cache_is_ignored_by_git() -> None:
    argv = ["git", "check-ignore", "-q", "build/kube"]
    subprocess.run(argv, cwd=MODULES.parents[2], check=True)
