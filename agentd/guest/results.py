"""Turn a Python object into the rich forms that a host can show."""

from __future__ import annotations

import base64
import io
import json
import sys
from collections.abc import Mapping
from typing import Any

Bundle = dict[str, str]

_METHODS = (
    ("_repr_html_", "text/html"),
    ("_repr_markdown_", "text/markdown"),
    ("_repr_svg_", "image/svg+xml"),
    ("_repr_png_", "image/png"),
    ("_repr_jpeg_", "image/jpeg"),
    ("_repr_latex_", "text/latex"),
    ("_repr_json_", "application/json"),
    ("_repr_javascript_", "application/javascript"),
)


def describe(value: object) -> Bundle:
    """MIME type to text, or to base64 for binary types; always holds text/plain.

    Raises whatever the object's own `__repr__` raises; its rich methods may fail silently.
    """
    bundle: Bundle = {"text/plain": repr(value)}
    cls = type(value)
    if cls.__module__ == "builtins":
        return bundle
    whole = _call(cls, "_repr_mimebundle_", value)
    if isinstance(whole, tuple) and whole:
        whole = whole[0]
    if isinstance(whole, Mapping):
        for mime, content in whole.items():
            _add(bundle, str(mime), content)
    for method, mime in _METHODS:
        if mime not in bundle:
            _add(bundle, mime, _call(cls, method, value))
    return bundle


def _call(cls: type, method: str, value: object) -> Any:
    function = getattr(cls, method, None)
    if function is None:
        return None
    try:
        return function(value)
    except Exception:
        return None


def _add(bundle: Bundle, mime: str, content: Any) -> None:
    if isinstance(content, tuple) and content:
        content = content[0]
    if content is None:
        return
    if isinstance(content, bytes | bytearray):
        bundle[mime] = base64.b64encode(content).decode("ascii")
    elif isinstance(content, str):
        bundle[mime] = content
    else:
        try:
            bundle[mime] = json.dumps(content)
        except (TypeError, ValueError):
            return


def take_figures() -> list[Bundle]:
    """Draw, then close, the figures that matplotlib holds, if it is imported."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is None:
        return []
    bundles: list[Bundle] = []
    for number in pyplot.get_fignums():
        figure = pyplot.figure(number)
        picture = io.BytesIO()
        figure.savefig(picture, format="png", bbox_inches="tight")
        bundles.append(
            {
                "text/plain": repr(figure),
                "image/png": base64.b64encode(picture.getvalue()).decode("ascii"),
            }
        )
    pyplot.close("all")
    return bundles
