"""What an API server does with one object: patches, selectors, field ownership."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from controlplane.api.meta import JsonObject

Path = tuple[str, ...]

# Lists that an API server merges by a key; every other list is one value.
_LIST_KEYS: Final = {"conditions": "type", "ownerReferences": "uid", "finalizers": ""}
_IDENTITY: Final = frozenset(
    {
        ("apiVersion",),
        ("kind",),
        ("metadata", "name"),
        ("metadata", "namespace"),
        ("metadata", "uid"),
        ("metadata", "resourceVersion"),
        ("metadata", "generation"),
        ("metadata", "creationTimestamp"),
        ("metadata", "managedFields"),
    }
)


def copied(body: JsonObject) -> JsonObject:
    """A deep copy, as the wire would make it; times become text."""
    result: JsonObject = msgspec.json.decode(msgspec.json.encode(body))
    return result


def merge_patched(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patched(result.get(key), value)
    return result


def field_text(body: JsonObject, path: str) -> str:
    """A field's value as a selector sees it: absent is empty."""
    value: Any = body
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return "" if value is None else str(value)


def matches_fields(body: JsonObject, selector: str) -> bool:
    """Only =, ==, != exist."""
    for term in filter(None, selector.split(",")):
        path, is_equal, value = _split_term(term)
        if (field_text(body, path) == value) is not is_equal:
            return False
    return True


def _split_term(term: str) -> tuple[str, bool, str]:
    if "!=" in term:
        path, _, value = term.partition("!=")
        return path.strip(), False, value.strip()
    path, _, value = term.replace("==", "=").partition("=")
    return path.strip(), True, value.strip()


def matches_labels(body: JsonObject, selector: str) -> bool:
    """Equality, existence (`key`, `!key`), `in` and `notin`."""
    labels = body.get("metadata", {}).get("labels") or {}
    return all(_matches_label(labels, term) for term in _label_terms(selector))


def _label_terms(selector: str) -> Iterator[str]:
    depth, term = 0, ""
    for char in selector + ",":
        depth += (char == "(") - (char == ")")
        if char == "," and depth == 0:
            if term.strip():
                yield term.strip()
            term = ""
        else:
            term += char


def _matches_label(labels: dict[str, str], term: str) -> bool:
    if term.endswith(")"):
        head, _, inside = term[:-1].partition("(")
        key, operator = head.split()
        is_in = labels.get(key) in {value.strip() for value in inside.split(",")}
        return is_in if operator == "in" else not is_in
    if "=" in term:
        key, is_equal, value = _split_term(term)
        return (labels.get(key) == value) is is_equal
    return term[1:] not in labels if term.startswith("!") else term in labels


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every field that can be owned, with its value."""
    if path in _IDENTITY:
        return
    key = _LIST_KEYS.get(path[-1]) if path and isinstance(value, list) else None
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from leaves(inner, (*path, name))
    elif key is not None:
        for item in value:
            yield (*path, _item_id(item, key)), item
    else:
        yield path, value


def _item_id(item: Any, key: str) -> str:
    return f"[{item[key] if key else item}]"


def put_leaf(body: JsonObject, path: Path, value: Any) -> None:
    """Set one owned field."""
    _edit(body, path, value, is_removal=False)


def drop_leaf(body: JsonObject, path: Path) -> None:
    """Remove one owned field."""
    _edit(body, path, None, is_removal=True)


def _edit(body: JsonObject, path: Path, value: Any, *, is_removal: bool) -> None:
    at: Any = body
    *parents, last = path
    for depth, part in enumerate(parents):
        is_keyed_list = path[depth + 1].startswith("[") and part in _LIST_KEYS
        if not isinstance(at.get(part), list if is_keyed_list else dict):
            if is_removal:
                return
            at[part] = [] if is_keyed_list else {}
        at = at[part]
    if isinstance(at, list):
        key = _LIST_KEYS[parents[-1]]
        index = next((i for i, item in enumerate(at) if _item_id(item, key) == last), len(at))
        at[index : index + 1] = [] if is_removal else [value]
    elif is_removal:
        at.pop(last, None)
    elif value != {} or not isinstance(at.get(last), dict):
        at[last] = value
