"""Run the program behind a make target, so that its failure is one message, JSON too if wanted."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from agentd.cli.root import EXIT_INTERRUPTED
from agentd.errors import ErrorCode, SnapStartError
from agentd.wire import api


def run_target(run: Callable[[], int], *, as_json: bool) -> int:
    """The exit status of `run`, or of what it raised, which is told first.

    SIGTERM ends it as Ctrl-C does, so that machines and files go with it. Call it in the main
    thread.

    Args: as_json: end with the failure as one JSON object, `{"error": ..., "exit_status": ...}`.
    """
    try:
        with _interrupted_by_sigterm():
            return run()
    except SnapStartError as exc:
        return _tell(exc.code, exc.message, exc.hint, exc.code.exit_code, as_json=as_json)
    except KeyboardInterrupt:
        code, message = ErrorCode.REQUEST_INVALID, "interrupted"
        return _tell(code, message, "run it again", EXIT_INTERRUPTED, as_json=as_json)
    except Exception as exc:
        # A defect: its place matters, and still the last line is the one that was asked for.
        traceback.print_exc()
        code = ErrorCode.INTERNAL
        hint = "please report this as a defect, with the lines above"
        return _tell(code, f"{type(exc).__name__}: {exc}", hint, code.exit_code, as_json=as_json)


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _tell(code: ErrorCode, message: str, hint: str, exit_status: int, *, as_json: bool) -> int:
    print(f"error: {message}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)
    if as_json:
        sys.stderr.flush()
        error = api.ErrorBody(code=code.value, message=message, hint=hint)
        print(msgspec.json.encode({"error": error, "exit_status": exit_status}).decode())
    return exit_status
