"""The documentation says what the code says."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import click
import pytest

from agentd.cli.agentd import root as agentd_command
from agentd.cli.snapctl import snapctl as snapctl_command
from agentd.engine.session import EndReason
from agentd.errors import ErrorCode, PeerError
from agentd.guest import settings as guest_settings
from agentd.guest import snapshot_restore_py
from agentd.pager.failures import pager_error
from agentd.settings import load_settings
from agentd.wire import pager
from controlplane.cli import root as controlplane_command
from controlplane.sessions.decision import StartReason
from controlplane.settings import load_settings as load_controlplane_settings
from tests.docs.events import strings

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
PROGRAMS: dict[str, click.Command] = {
    "agentd": agentd_command,
    "snapctl": snapctl_command,
    "snapstart-controlplane": controlplane_command,
}

OURS = ("agentd", "controlplane")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def read(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def rows(text: str) -> Iterator[list[str]]:
    """The cells of every table row."""
    for line in text.splitlines():
        if line.startswith("|"):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def section(text: str, title: str) -> str:
    """What stands under a heading, up to the next one of its rank."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    assert found, f"there is no section {title!r}"
    return found[1]


def fenced(text: str, *languages: str) -> list[str]:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
    return [body for language, body in blocks if language in languages]


# --- links, paths --------------------------------------------------------------------------------


def slugs(text: str) -> set[str]:
    """The anchors that headings get."""
    plain = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    titles = re.findall(r"^#+ (.+)$", plain, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if not file.exists() or (anchor and anchor not in slugs(file.read_text())):
            broken.append(target)
    assert broken == []


@each_page
def test_files_of_the_project_that_are_named_exist(page: Path) -> None:
    tops = "agentd|controlplane|native|tests|bench|systemd|deploy|docs"
    named = re.findall(rf"`((?:{tops})/[\w./-]*)`", page.read_text())
    assert [path for path in named if not (ROOT / path).exists()] == []


# --- tables against the code ---------------------------------------------------------------------


def test_the_operator_page_has_every_reason_of_a_cold_start() -> None:
    table = section(read("operator.md"), "Why a session started cold")
    documented = {name for row in rows(table) for name in re.findall(r"`(\w+)`", row[0])}
    node = {row[0].strip("`") for row in rows(section(read("virtual-node.md"), "How a Pod starts"))}
    of_node = {name for name in node if re.fullmatch(r"[a-z]+(_[a-z]+)+", name)}
    webhook = {reason.value for reason in StartReason} - {StartReason.RESTORED_INTENT.value}
    assert documented == webhook | of_node


def test_the_reference_has_every_error_code_with_its_numbers() -> None:
    table = read("reference/errors.md")
    documented = {row[0]: (row[1], row[2]) for row in rows(table) if row[0].startswith("`")}
    assert documented == {
        f"`{code.value}`": (str(code.exit_code), str(code.http_status)) for code in ErrorCode
    }


def test_the_operator_page_has_every_reason_of_an_end() -> None:
    text = read("operator.md")
    assert [reason for reason in EndReason if f"`{reason.value}`" not in text] == []


def kinds_in_the_guest() -> set[str]:
    """What the guest's code gives as the kind of a reason."""
    found: set[str] = set()
    for file in (ROOT / "agentd" / "guest").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            if is_call and node.func.id in ("Reason", "_more") and node.args:
                found.update(strings(node.args[0]))
    return found


def test_the_gate_s_kinds_are_explained() -> None:
    table = section(read("runtime-authors.md"), "The contamination gate")
    documented = {row[0].strip("`") for row in rows(table) if row[0].startswith("`")}
    assert documented == kinds_in_the_guest()


def test_the_hooks_are_documented() -> None:
    text = section(read("runtime-authors.md"), "Hooks")
    assert [name for name in snapshot_restore_py.__all__ if f"`{name}(" not in text] == []


def test_the_container_s_variables_are_documented() -> None:
    text = section(read("runtime-authors.md"), "As a container's entry point")
    names = (
        *guest_settings.GATE_VARIABLES,
        *guest_settings.SOCKET_VARIABLES,
        guest_settings.KEY_VARIABLE,
        "SNAPSTART_WORKSPACE",
        "SNAPSTART_RUNTIME_FILE",
    )
    assert [name for name in names if f"`{name}`" not in text] == []


@pytest.mark.parametrize(
    ("title", "contract"),
    [
        ("Layers", "Imports point down"),
        ("Layers of the control plane", "The control plane's imports point down"),
    ],
)
def test_the_layers_are_those_of_the_contract(title: str, contract: str) -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = next(one["layers"] for one in contracts["contracts"] if one["name"] == contract)
    expected = [[name.strip() for name in layer.split(":")] for layer in layers]
    table = section(read("architecture.md"), title)
    documented = [re.findall(r"`([\w.]+)`", row[0]) for row in rows(table)]
    assert [names for names in documented if names] == expected


# --- the page server -----------------------------------------------------------------------------


def first_words(title: str, pattern: str) -> set[str]:
    """What the first cells of a section of memory.md name."""
    cells = [row[0] for row in rows(section(read("memory.md"), title))]
    return {name for cell in cells for name in re.findall(pattern, cell)}


def test_the_memory_page_has_every_request_of_the_control_protocol() -> None:
    ours = {order.__struct_config__.tag for order in get_args(pager.Order)}
    # Only operators ask for it.
    assert first_words("Control protocol", r'"op": "(\w+)"') == ours | {"retire"}


def test_the_memory_page_has_every_word_of_a_refusal() -> None:
    documented = first_words("Control protocol", r"`(\w+)`(?!:)")
    words = {word for word in documented if not word.startswith("{")}
    assert words == {
        "unknown", "stopped", "image", "hand_over", "timeout", "exists", "invalid", "system",
    }  # fmt: skip
    unknown_here = [w for w in words if isinstance(pager_error("", pager.Refusal(w)), PeerError)]
    assert unknown_here == []


@pytest.mark.parametrize("page", ["memory.md", "local-api.md"])
def test_every_member_of_a_machines_statistics_is_explained(page: str) -> None:
    members = pager.MachineStats.__struct_fields__
    assert [name for name in members if f"`{name}`" not in read(page)] == []


def test_the_messages_that_monitors_send_are_json() -> None:
    for example in fenced(read("memory.md"), "json"):
        said = json.loads(example)
        (region,) = said["regions"] if isinstance(said, dict) else said
        assert set(region) == {"base_host_virt_addr", "size", "offset", "page_size"}


# --- defects -------------------------------------------------------------------------------------

# Rows that name absent code in place of a test.
MOST_ABSENT = 15


def names_of_tests() -> dict[str, set[str]]:
    """The names of all tests, by the path of their file below tests/; nothing is imported."""
    found = {}
    for file in (ROOT / "tests").rglob("test_*.py"):
        tree = ast.walk(ast.parse(file.read_text()))
        functions = (n for n in tree if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
        names = {node.name for node in functions if node.name.startswith("test_")}
        found[str(file.relative_to(ROOT / "tests"))] = names
    return found


def defect_rows() -> dict[int, list[str]]:
    numbered = (row for row in rows(read("defects.md")) if row[0].isdigit())
    found: dict[int, list[str]] = {}
    for row in numbered:
        assert int(row[0]) not in found, f"defect {row[0]} has two rows"
        found[int(row[0])] = row[1:]
    return found


def test_every_defect_has_a_row_with_a_statement() -> None:
    found = defect_rows()
    assert sorted(found) == list(range(1, 101))
    assert [number for number, (statement, _) in found.items() if not statement] == []


def test_every_defect_has_a_test_or_names_what_is_absent() -> None:
    absent = {n: proof for n, (_, proof) in defect_rows().items() if "::test_" not in proof}
    assert len(absent) <= MOST_ABSENT
    for number, proof in absent.items():
        assert proof.startswith("absent: "), f"defect {number}"
        assert "`" in proof, f"defect {number} names no code"


def absent_tests(text: str) -> list[str]:
    """Of the tests that a text names, those that no file, or more than one, could have."""
    known = names_of_tests()
    wrong = []
    for file, name in re.findall(r"`([\w/]+\.py)::(\w+)`", text):
        homes = [path for path in known if f"/{path}".endswith(f"/{file}")]
        if len(homes) != 1 or name not in known[homes[0]]:
            wrong.append(f"{file}::{name} ({len(homes)} files of that name)")
    return wrong


def test_the_tests_of_defects_exist() -> None:
    assert absent_tests(read("defects.md")) == []


def test_the_tests_that_the_security_page_names_exist() -> None:
    assert absent_tests(read("security.md")) == []


THREATS = ("guest", "pod author", "user of the host", "node credential", "artifact")


@pytest.mark.parametrize("threat", THREATS)
def test_every_line_about_a_threat_names_a_test(threat: str) -> None:
    (title,) = re.findall(rf"^## (.*{threat})$", read("security.md"), re.M)
    told = [row for row in rows(section(read("security.md"), title)) if row[0][0] != "-"][1:]
    assert len(told) >= 4
    assert [row[0] for row in told if "::test_" not in row[2]] == []


# --- examples ------------------------------------------------------------------------------------


@each_page
def test_python_examples_compile_and_import_what_exists(page: Path) -> None:
    for example in fenced(page.read_text(), "python"):
        for node in ast.walk(ast.parse(example, str(page))):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith(OURS):
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, alias.name) for alias in node.names)


def shell_commands(text: str) -> Iterator[list[str]]:
    """Every simple command of a script, innermost `$(...)` first."""
    text = text.replace("\\\n", " ")
    while found := re.search(r"\$\(([^()]*)\)", text):
        yield from shell_commands(found[1])
        text = text[: found.start()] + "VALUE" + text[found.end() :]
    for line in text.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
        lexer.whitespace_split = True
        words: list[str] = []
        for token in [*lexer, ";"]:
            if token.strip("();|&"):
                words.append(token)
            else:
                yield words
                words = []


def resolve(command: click.Command, words: list[str]) -> tuple[click.Command, list[str]]:
    """Walk down to the command that the words name. Raises: click.UsageError."""
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(click.Context(command), words[0])
        if found is None:
            raise click.UsageError(f"{command.name} has no command {words[0]!r}")
        command, words = found, words[1:]
    return command, words


def check_command(words: list[str], *, whole: bool) -> None:
    """Raises: click.UsageError. whole: required options and arguments must be there."""
    command, rest = resolve(PROGRAMS[words[0].rpartition("/")[2]], words[1:])
    nothing, _, _ = command.make_parser(click.Context(command)).parse_args([])
    given, left, _ = command.make_parser(click.Context(command)).parse_args(rest)
    if left:
        raise click.UsageError(f"{left!r} is left over")
    for param in command.params:
        name = str(param.name)
        if whole and param.required and given.get(name) == nothing.get(name):
            raise click.UsageError(f"{param.name!r} is missing")


def is_ours(words: list[str]) -> bool:
    return bool(words) and words[0].rpartition("/")[2] in PROGRAMS


def problems(commands: Iterator[list[str]], *, whole: bool) -> list[str]:
    found = []
    for words in commands:
        if is_ours(words):
            try:
                check_command(words, whole=whole)
            except click.UsageError as exc:
                found.append(f"{shlex.join(words)}: {exc.format_message()}")
    return found


def scripts(text: str) -> Iterator[str]:
    """Fenced shell, and blocks that are indented by four spaces."""
    yield from fenced(text, "sh")
    plain = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    yield "\n".join(re.findall(r"^ {4}(?=\S)(.*)$", plain, re.M))


@each_page
def test_shell_examples_use_commands_that_exist(page: Path) -> None:
    commands = (words for script in scripts(page.read_text()) for words in shell_commands(script))
    assert problems(commands, whole=True) == []


@each_page
def test_commands_named_in_the_text_exist(page: Path) -> None:
    spans = re.findall(
        r"(?<!`)`((?:agentd|snapctl|snapstart-controlplane) [^`\n]+)`", page.read_text()
    )
    assert problems((words for span in spans for words in shell_commands(span)), whole=False) == []


@each_page
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    text = "\n".join((*scripts(page.read_text()), *re.findall(r"`([^`\n]+)`", page.read_text())))
    named = re.findall(r"^make (?:-C \S+ )?([a-z-]+)", text, re.M)
    assert set(named) <= targets


def test_toml_examples_are_valid_settings(tmp_path: Path) -> None:
    for number, example in enumerate(fenced(read("operator.md"), "toml")):
        file = tmp_path / f"{number}.toml"
        file.write_text(example)
        if example.startswith("# controlplane.toml"):
            load_controlplane_settings(file, {})
        else:
            load_settings(file, {}, uid=0)


@pytest.mark.parametrize(
    "line",
    [
        "snapctl template create python",
        "snapctl session rm",
        "snapctl fork python --no-such-option",
        "snapctl nonsense",
        'echo "$(agentd serve --nonsense)"',
        "true && snapctl session list extra",
    ],
)
def test_a_wrong_example_would_be_noticed(line: str) -> None:
    assert problems(shell_commands(line), whole=True)
