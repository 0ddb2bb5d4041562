"""A format is not changed without its version."""

from __future__ import annotations

import json

import pytest

from .table import FORMATS, SHAPES, Format


@pytest.mark.parametrize("one", FORMATS, ids=lambda one: one.name)
def test_the_shape_is_that_of_its_version(one: Format) -> None:
    known = json.loads(SHAPES.read_text())[one.name]
    assert one.version in known, "keep files of this version: python -m tests.formats.make"
    assert known[one.version] == one.fingerprint, (
        f"the {one.name} was changed: give it another version, say in docs/formats.md what becomes "
        "of older ones, keep files of it: python -m tests.formats.make"
    )


def test_a_shape_notices_a_changed_member() -> None:
    (manifest,) = (one for one in FORMATS if one.name == "template manifest")
    changed = Format(manifest.name, manifest.version, lambda: manifest.shape() + " ")
    assert changed.fingerprint != manifest.fingerprint
