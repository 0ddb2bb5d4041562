"""Serve the files of the workspace over HTTP, confined to it."""

from __future__ import annotations

import base64
import binascii
import email.parser
import mimetypes
import os
import posixpath
import re
import stat
import tempfile
from contextlib import suppress
from datetime import UTC, datetime
from typing import BinaryIO

from agentd.guest.wire import JsonObject, WireError, decode_json

_DEFAULT_MODE = 0o644


class HttpError(Exception):
    """An answer that is not a success.

    Args: status: HTTP status. message: for the caller.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def confine(workspace: str, path: str) -> str:
    """The real path of `path` below the workspace; a leading slash means the workspace itself.

    Raises: HttpError 400 when it leads outside, by its text or through a link.
    """
    if "\0" in path:
        raise HttpError(400, "the path has a NUL")
    root = os.path.realpath(workspace)
    real = os.path.realpath(posixpath.join(root, path.lstrip("/")))
    if real != root and not real.startswith(root + "/"):
        raise HttpError(400, f"access denied: path {path!r} escapes the workspace")
    return real


def upload(workspace: str, content_type: str, body: bytes) -> JsonObject:
    """Store one file given as multipart form or as JSON with base64; says what was stored."""
    if content_type.startswith("multipart/form-data"):
        fields = parse_multipart(content_type, body)
        if not fields.get("path"):
            raise HttpError(400, "Missing 'path' field")
        if "file" not in fields:
            raise HttpError(400, "Failed to get file: there is no 'file' field")
        name, mode = fields["path"].decode("utf-8", "replace"), fields.get("mode", b"").decode()
        return _store(workspace, name, fields["file"], mode)
    try:
        request = decode_json(body)
    except WireError as exc:
        raise HttpError(400, str(exc)) from exc
    path, text, mode = request.get("path"), request.get("content"), request.get("mode") or ""
    if not (isinstance(path, str) and path and isinstance(text, str) and isinstance(mode, str)):
        raise HttpError(400, "members 'path' and 'content' are needed, and text")
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise HttpError(400, f"Invalid base64 content: {exc}") from exc
    return _store(workspace, path, content, mode)


def _store(workspace: str, path: str, content: bytes, mode: str) -> JsonObject:
    target = confine(workspace, path)
    try:
        if os.path.isdir(target):
            raise HttpError(400, "Path is a directory, not a file")
        os.makedirs(os.path.dirname(target), exist_ok=True)
        _replace(target, content, _parse_mode(mode))
        info = os.stat(target)
    except OSError as exc:
        raise HttpError(500, f"Failed to write file: {exc.strerror}") from exc
    return {
        "path": os.path.relpath(target, os.path.realpath(workspace)),
        "size": info.st_size,
        "mode": stat.filemode(info.st_mode),
        "modified": _time_text(info.st_mtime),
    }


def _replace(target: str, content: bytes, mode: int) -> None:
    fd, partial = tempfile.mkstemp(dir=os.path.dirname(target), prefix=".upload-")
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
        os.chmod(partial, mode)
        os.rename(partial, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(partial)
        raise


def _parse_mode(text: str) -> int:
    with suppress(ValueError):
        mode = int(text, 8)
        if 0 <= mode <= 0o777:
            return mode
    return _DEFAULT_MODE


def list_files(workspace: str, path: str) -> JsonObject:
    """The entries of one directory. Raises HttpError 404, 400."""
    if not path:
        raise HttpError(400, "Missing 'path' query parameter")
    try:
        with os.scandir(confine(workspace, path)) as entries:
            return {"files": [_describe(entry) for entry in sorted(entries, key=_name)]}
    except FileNotFoundError as exc:
        raise HttpError(404, "Directory not found") from exc
    except OSError as exc:
        raise HttpError(500, f"Failed to read directory: {exc.strerror}") from exc


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name


def _describe(entry: os.DirEntry[str]) -> JsonObject:
    info = entry.stat(follow_symlinks=False)
    return {
        "name": entry.name,
        "size": info.st_size,
        "modified": _time_text(info.st_mtime),
        "mode": stat.filemode(info.st_mode),
        "is_dir": entry.is_dir(follow_symlinks=False),
    }


def open_file(workspace: str, path: str) -> tuple[BinaryIO, int, str]:
    """The file, its size, its MIME type; the caller closes it. Raises HttpError 404, 400."""
    target = confine(workspace, path)
    try:
        fd = os.open(target, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as exc:
        raise HttpError(404, "File not found") from exc
    except OSError as exc:
        raise HttpError(500, f"Failed to get file info: {exc.strerror}") from exc
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        os.close(fd)
        raise HttpError(400, "Path is a directory, not a file")
    kind = mimetypes.guess_type(target)[0] or "application/octet-stream"
    return os.fdopen(fd, "rb"), info.st_size, kind


def parse_multipart(content_type: str, body: bytes) -> dict[str, bytes]:
    """Field name to content (RFC 7578). Raises HttpError 400."""
    match = re.search(r'boundary=(?:"([^"]{1,70})"|([^;\s]{1,70}))', content_type)
    if match is None:
        raise HttpError(400, "the multipart form names no boundary")
    delimiter = b"\r\n--" + (match[1] or match[2]).encode("latin-1")
    pieces = (b"\r\n" + body).split(delimiter)
    if len(pieces) < 2 or not pieces[-1].startswith(b"--"):
        raise HttpError(400, "the multipart form does not end with its boundary")
    fields: dict[str, bytes] = {}
    for piece in pieces[1:-1]:
        head, _, content = piece.partition(b"\r\n\r\n")
        headers = email.parser.BytesParser().parsebytes(head.lstrip(b"\r\n") + b"\r\n\r\n")
        name = headers.get_param("name", header="content-disposition")
        if isinstance(name, str):
            fields.setdefault(name, content)
    return fields


def _time_text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
