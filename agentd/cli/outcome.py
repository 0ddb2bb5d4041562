"""Decide what an execution's outcome means to the command line."""

from __future__ import annotations

import base64
import binascii
import mimetypes
import re
from collections.abc import Sequence
from pathlib import Path

from agentd.client.execution import Execution, Result
from agentd.errors import ErrorCode, PeerError

EXIT_EXCEPTION = 1
EXIT_INTERRUPTED = 130

_EXIT_CODES = {
    "ok": 0,
    "error": EXIT_EXCEPTION,
    "timeout": ErrorCode.EXECUTION_TIMEOUT.exit_code,
    "interrupted": EXIT_INTERRUPTED,
    "signalled": ErrorCode.INTERPRETER_DIED.exit_code,
    "out_of_memory": ErrorCode.INTERPRETER_DIED.exit_code,
    "result_too_large": ErrorCode.RESULT_TOO_LARGE.exit_code,
}

_TEXT_TYPE = re.compile(r"text/.*|.*[/+](json|xml|javascript|x-latex)")
# The machine's own table of types must not change what a file is called.
_TYPES = mimetypes.MimeTypes(filenames=())
_SUFFIXES = {"text/plain": ".txt", "text/latex": ".tex", "image/jpeg": ".jpg"}


def exit_code_of(done: Execution) -> int:
    """The exit code of an outcome; that of sys.exit() is handed through."""
    if done.status == "exited":
        found = re.search(r"-?\d+", done.detail)
        return int(found.group()) & 0xFF if found else EXIT_EXCEPTION
    return _EXIT_CODES.get(done.status, ErrorCode.INTERNAL.exit_code)


def describe_failure(done: Execution) -> str:
    """One sentence for outcomes that the code's own output does not explain, else empty."""
    reasons = {
        "timeout": "the code took too long and was interrupted",
        "interrupted": "the code was interrupted",
        "exited": "the code ended its interpreter",
        "signalled": "the interpreter was killed by a signal",
        "out_of_memory": "the code used up the guest's memory",
        "result_too_large": "the results were too large; see --max-result-bytes",
    }
    if done.status in ("ok", "error") or (done.status == "exited" and exit_code_of(done) == 0):
        return ""
    reason = reasons.get(done.status, f"the code ended as {done.status!r}")
    return f"{reason} ({done.detail})" if done.detail else reason


def document_of(done: Execution, saved: Sequence[Path]) -> dict[str, object]:
    """The outcome as the local API words it, with the files written."""
    error = done.error
    lines = error.traceback.splitlines() if error else []
    return {
        "status": done.status,
        "detail": done.detail,
        "stdout": "".join(done.logs.stdout),
        "stderr": "".join(done.logs.stderr),
        "stdout_truncated": done.stdout_truncated,
        "stderr_truncated": done.stderr_truncated,
        "results": [result.data for result in done.results],
        "text": done.text,
        "error": error and {"name": error.name, "value": error.value, "traceback": lines},
        "execution_count": done.execution_count,
        "duration_s": done.duration_s,
        "namespace_lost": done.namespace_lost,
        "saved": [str(path) for path in saved],
    }


def save_results(results: Sequence[Result], directory: Path) -> list[Path]:
    """Write each form of each result to `result-N.suffix`; the guest has no say in the names.

    Raises: PeerError for content that is not what its type says; OSError.
    """
    directory.mkdir(parents=True, exist_ok=True)
    saved = []
    for number, result in enumerate(results, 1):
        for mime, content in result.data.items():
            path = directory / f"result-{number}{_suffix(mime)}"
            path.write_bytes(_raw(mime, content))
            saved.append(path)
    return saved


def _suffix(mime: str) -> str:
    return _SUFFIXES.get(mime) or _TYPES.guess_extension(mime) or ".bin"


def _raw(mime: str, content: object) -> bytes:
    if not isinstance(content, str):
        import msgspec

        return msgspec.json.encode(content)
    if _TEXT_TYPE.fullmatch(mime):
        return content.encode()
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error as exc:
        raise PeerError(
            ErrorCode.GUEST_PROTOCOL, f"a result of type {mime!r} is not valid base64: {exc}"
        ) from exc
