"""Tell the shape of each format, so that nobody changes one without its version."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from agentd.engine import journal, records
from agentd.engine.journal_records import Record
from agentd.image import manifest as image
from agentd.providers.ledger import Order
from agentd.wire import manifest as template
from controlplane.api import manifest as snapshots
from controlplane.store import sqlite

ROOT: Final = Path(__file__).resolve().parents[2]
FIXTURES: Final = ROOT / "tests" / "fixtures" / "formats"
SHAPES: Final = FIXTURES / "shapes.json"
_PAGER: Final = ROOT / "native" / "pager"


@dataclass(frozen=True)
class Format:
    """shape: a text that changes with it. is_open: members may be added without a new version,
    because every reader keeps those that it does not know.
    """

    name: str
    version: str
    shape: Callable[[], str]
    is_open: bool = False

    @property
    def fingerprint(self) -> str:
        """Of its shape."""
        return hashlib.sha256(self.shape().encode()).hexdigest()[:16]


def _members(kind: Any) -> Callable[[], str]:
    """Names, types and defaults, without docstrings."""

    def shape() -> str:
        found = _without_words(msgspec.json.schema(kind))
        return msgspec.json.encode(found, order="deterministic").decode()

    return shape


def _without_words(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_words(v) for k, v in value.items() if k not in ("description", "title")}
    return [_without_words(one) for one in value] if isinstance(value, list) else value


def _sources(*parts: tuple[str, str]) -> Callable[[], str]:
    """Struct definitions and constants of C, as text without comments. parts: file, pattern."""

    def shape() -> str:
        found = []
        for name, pattern in parts:
            text = re.sub(r"/\*.*?\*/", "", (_PAGER / name).read_text(), flags=re.S)
            matches = re.findall(pattern, text, flags=re.S | re.M)
            assert matches, f"{name} has nothing like {pattern}"
            found += matches
        return re.sub(r"\s+", " ", " ".join(found))

    return shape


def _constant(name: str, constant: str) -> str:
    text = (_PAGER / name).read_text()
    (found,) = re.findall(rf"^#define {constant} (\d+)", text, flags=re.M)
    return str(found)


_STRUCTS: Final = r"^(?:struct|enum) \w+ \{.*?^\}[^;]*;"
_JOURNAL_CONSTANTS: Final = r"^#define JOURNAL_(?!VERSION)\w+ [^\n]*"

FORMATS: Final = (
    Format("agentd journal", journal._VERSION.decode(), _members(Record)),
    Format("template manifest", str(template.FORMAT_VERSION), _members(template.Manifest)),
    Format("image", str(image.FORMAT_VERSION), _members(image.ImageManifest)),
    Format("orders of a sandboxer", "1", _members(Order)),
    Format("history", str(records._VERSION), lambda: records._SCHEMA),
    Format("installation id", "1", lambda: "a UUID"),
    Format("snapshot", str(snapshots.SCHEMA_VERSION), _members(snapshots.Manifest), is_open=True),
    Format("snapshots in SQLite", str(sqlite._SCHEMA), lambda: sqlite._CREATE),
    Format(
        "page server's journal",
        _constant("journal.h", "JOURNAL_VERSION"),
        _sources(
            ("journal.h", _STRUCTS),
            ("journal.h", _JOURNAL_CONSTANTS),
            ("handshake.h", r"^struct region \{.*?^\};"),
            ("handshake.h", r"^#define HANDSHAKE_MAX_REGIONS [^\n]*"),
            ("image.h", r"^struct image_identity \{.*?^\};"),
        ),
    ),
    Format(
        "working set, record",
        _constant("working_set_file.h", "FILE_VERSION"),
        _sources(
            ("working_set_file.h", r"^struct (?:file_tie|\w+_header) \{.*?^\};"),
            ("working_set.h", r"^struct (?:touch|run) \{.*?^\};"),
            ("working_set.h", r"^#define WORKING_SET_CHUNK_PAGES [^\n]*"),
        ),
    ),
)
