"""Read settings from defaults, a file, the environment; find all problems, not the first one."""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import msgspec

from agentd.typed_settings.group import Group, keys

T = TypeVar("T", bound=Group)
_SEPARATOR: Final = "__"


@dataclass(frozen=True)
class Origin:
    """Where a value comes from. kind: default, file, environment. name: the file, the variable."""

    kind: str
    name: str = ""

    def __str__(self) -> str:
        if self.kind == "environment":
            return f"environment variable {self.name}"
        return self.name or "the defaults"


DEFAULT: Final = Origin("default")


@dataclass(frozen=True)
class Finding:
    """What a program has against values: the keys concerned, what is wrong, what to do."""

    keys: tuple[str, ...]
    what: str
    hint: str


@dataclass(frozen=True)
class Problem:
    """What an operator has to change. key: `group.field`, empty for a whole file."""

    key: str
    where: str
    what: str
    hint: str


def tell(problem: Problem) -> str:
    """A problem in one line."""
    return f"reading settings from {problem.where}: {problem.what}; {problem.hint}"


@dataclass(frozen=True)
class Source(Generic[T]):
    """How a program's settings are given.

    prefix: a variable <prefix><GROUP>__<FIELD> overrides the file. foreign: variables of another
    program that begin the same. places: defaults that depend on the machine, for what is None.
    fallbacks: variables of other meaning that fill in for what is empty, by key.
    """

    settings: type[T]
    prefix: str
    hint: str
    foreign: tuple[str, ...] = ()
    places: Mapping[str, object] = field(default_factory=dict)
    fallbacks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reading(Generic[T]):
    """What was read. settings: with the default in place of whatever has a problem."""

    settings: T
    origins: Mapping[str, Origin]
    problems: tuple[Problem, ...]

    def checked(self, findings: Iterable[Finding]) -> Reading[T]:
        """With what a program found out, unless it follows from a problem that is known."""
        bad = {problem.key.partition(".")[0] for problem in self.problems}
        added = [
            Problem(f.keys[0], self._where(f.keys), f.what, f.hint)
            for f in findings
            if not bad & {key.partition(".")[0] for key in f.keys}
        ]
        return self.adding(*added)

    def adding(self, *problems: Problem) -> Reading[T]:
        """With problems of what stands in no setting."""
        return Reading(self.settings, self.origins, (*self.problems, *problems))

    def _where(self, concerned: Iterable[str]) -> str:
        found = [self.origins[key] for key in concerned if key in self.origins]
        told = [origin for origin in found if origin.kind != "default"]
        return str((told or found or [DEFAULT])[0])


def describe(settings: Group) -> dict[str, Any]:
    """The settings in force, as plain values for a log line or a terminal."""
    built: dict[str, Any] = msgspec.to_builtins(settings, enc_hook=str)
    return built


def read(source: Source[T], file: Path | None, environ: Mapping[str, str]) -> Reading[T]:
    """Read the settings. Reads the file, touches nothing else; problems are returned.

    file: TOML, None for defaults alone. environ: overrides.
    """
    reader = _Reader(source, environ)
    if file is not None:
        reader.take_file(file)
    reader.take_environment()
    reader.fill_in()
    return reader.result()


class _Reader(Generic[T]):
    """Collects values, origins, problems, in this order: file, environment, what fills in."""

    def __init__(self, source: Source[T], environ: Mapping[str, str]) -> None:
        self._source = source
        self._environ = environ
        self._known = keys(source.settings)
        self._values: dict[str, dict[str, Any]] = {group: {} for group in self._known}
        self._origins: dict[str, Origin] = {}
        self._problems: list[Problem] = []

    def result(self) -> Reading[T]:
        types = {one.name: one.type for one in msgspec.structs.fields(self._source.settings)}
        groups = {name: types[name](**fields) for name, fields in self._values.items()}
        every = {f"{group}.{name}": DEFAULT for group in self._known for name in self._known[group]}
        settings = self._source.settings(**groups)
        return Reading(settings, {**every, **self._origins}, tuple(self._problems))

    def take_file(self, file: Path) -> None:
        try:
            with file.open("rb") as stream:
                self._check_owner(file, os.fstat(stream.fileno()))
                raw = tomllib.load(stream)
        except OSError as exc:
            self._refuse("", str(file), f"{exc.strerror}", "create it or name another file")
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
            self._refuse("", str(file), f"it is not TOML: {exc}", "correct the syntax")
        else:
            for group, fields in raw.items():
                self._take_group(group, fields, Origin("file", str(file)))

    def _check_owner(self, file: Path, status: os.stat_result) -> None:
        """Who may write the settings decides which programs are run."""
        if status.st_uid not in (0, os.geteuid()):
            what = f"it belongs to uid {status.st_uid}"
        elif status.st_mode & stat.S_IWOTH:
            what = f"its mode is {stat.S_IMODE(status.st_mode):04o}: anybody may write it"
        else:
            return
        self._refuse("", str(file), what, "make it root's or this user's, with mode 0644")

    def _take_group(self, group: str, fields: object, origin: Origin) -> None:
        if group not in self._known or not isinstance(fields, dict):
            what = "is no table" if group in self._known else "is no group of settings"
            self._refuse(group, str(origin), f"{group!r} {what}")
            return
        for name, value in fields.items():
            key = f"{group}.{name}"
            if name not in self._known[group]:
                self._refuse(key, str(origin), f"there is no setting {key!r}")
            else:
                self._take(group, name, value, origin)

    def take_environment(self) -> None:
        for variable, value in sorted(self._environ.items()):
            if not variable.startswith(self._source.prefix) or _SEPARATOR not in variable:
                continue
            if variable.startswith(self._source.foreign):
                continue
            group, _, name = (
                variable.removeprefix(self._source.prefix).lower().partition(_SEPARATOR)
            )
            origin = Origin("environment", variable)
            if name not in self._known.get(group, {}):
                self._refuse(f"{group}.{name}", str(origin), "there is no such setting")
            else:
                is_list = isinstance(self._known[group][name].default, tuple)
                self._take(group, name, _split(value) if is_list else value, origin)

    def _take(self, group: str, name: str, value: object, origin: Origin) -> None:
        """Keep a value of the right type; text of the environment is converted."""
        kind = self._known[group][name].type
        strict = origin.kind == "file"
        try:
            taken = msgspec.convert(value, kind, strict=strict, dec_hook=_decode_path)
        except msgspec.ValidationError as exc:
            self._refuse(f"{group}.{name}", str(origin), f"{group}.{name}: {exc}")
        else:
            self._values[group][name] = taken
            self._origins[f"{group}.{name}"] = origin

    def fill_in(self) -> None:
        for key, variable in self._source.fallbacks.items():
            if value := self._environ.get(variable):
                self._fill(key, value, Origin("environment", variable))
        for key, place in self._source.places.items():
            self._fill(key, place, DEFAULT)

    def _fill(self, key: str, value: object, origin: Origin) -> None:
        group, _, name = key.partition(".")
        if self._values[group].get(name) in (None, ""):
            self._values[group][name] = value
            self._origins[key] = origin

    def _refuse(self, key: str, where: str, what: str, hint: str = "") -> None:
        self._problems.append(Problem(key, where, what, hint or self._source.hint))


def _split(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]


def _decode_path(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str) and value:
        return Path(value)
    raise ValueError(f"Expected a path, got {value!r}")
