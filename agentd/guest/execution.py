"""Run user code in a namespace that lives as long as the interpreter process."""

from __future__ import annotations

import ast
import atexit
import builtins
import io
import linecache
import os
import signal
import sys
import traceback
import types
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from agentd.guest import results, wire
from agentd.guest.wire import JsonObject

Emit = Callable[[JsonObject], None]

_ENVELOPE_BYTES = 4096


class ResultTooLargeError(Exception):
    """The rich results of one execution are over its limit."""


class Namespace:
    """The module that user code sees as `__main__`."""

    def __init__(self) -> None:
        self.module = types.ModuleType("__main__")
        self.module.__dict__["__builtins__"] = builtins
        self._initial = frozenset(self.module.__dict__)

    def install(self) -> None:
        """Make `import __main__`, pickling and the like find it."""
        sys.modules["__main__"] = self.module

    def user_names(self) -> list[str]:
        """Names that code has added."""
        return sorted(set(self.module.__dict__) - self._initial)


class Runner:
    """Executes requests one after the other; owns the standard streams of the process."""

    def __init__(self, emit: Emit, namespace: Namespace) -> None:
        self.namespace = namespace
        self._emit = emit
        self._pid = os.getpid()
        self._is_interruptible = False
        self._budget_bytes = 0
        self._saved_fds = (os.dup(0), os.dup(1), os.dup(2))
        self._streams: tuple[io.TextIOWrapper, io.TextIOWrapper, io.TextIOWrapper] | None = None
        builtins.display = self._display  # type: ignore[attr-defined]

    def install(self) -> None:
        """Bring signal handling and the standard streams back to what user code expects."""
        signal.signal(signal.SIGINT, self._on_interrupt)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        for fd, saved in enumerate(self._saved_fds):
            os.dup2(saved, fd)
        if self._streams is None or any(stream.closed for stream in self._streams):
            stdin = io.TextIOWrapper(io.FileIO(0, "r", closefd=False), encoding="utf-8")
            self._streams = (stdin, _text_stream(1), _text_stream(2))
        sys.stdin, sys.stdout, sys.stderr = self._streams
        sys.__stdin__, sys.__stdout__, sys.__stderr__ = self._streams  # type: ignore[misc]

    def _on_interrupt(self, _signal: int, _frame: object) -> None:
        if self._is_interruptible:
            raise KeyboardInterrupt

    def run(self, request: JsonObject) -> JsonObject:
        """Execute one request, emitting `result` and `error` messages.

        Returns: the `end` message. Does not return when the code ended the process.
        """
        is_rehearsal = bool(request.get("rehearsal"))
        namespace = Namespace() if is_rehearsal else self.namespace
        self._budget_bytes = int(request["max_result_bytes"])
        self.install()
        namespace.install()
        environment = request.get("env") or {}
        before = {name: os.environ.get(name) for name in environment}
        os.environ.update(environment)
        filename = f"<cell {request['execution_count']}>"
        try:
            outcome = self._guarded(str(request["code"]), filename, namespace.module.__dict__)
        finally:
            _restore_environment(before)
            self.namespace.install()
            if is_rehearsal:
                linecache.cache.pop(filename, None)
        return {"type": "end", **outcome}

    def _guarded(self, code: str, filename: str, scope: dict[str, Any]) -> JsonObject:
        try:
            try:
                self._begin()
                self._execute(code, filename, scope)
            finally:
                self._is_interruptible = False
                self._flush()
        except ResultTooLargeError as exc:
            return {"status": "result_too_large", "detail": str(exc)}
        except SystemExit as exc:
            self._leave(exc)
        except BaseException as exc:
            self._leave_if_forked()
            self._emit(describe_exception(exc))
            return {"status": "error", "detail": type(exc).__name__}
        self._leave_if_forked()
        return {"status": "ok", "detail": ""}

    def _begin(self) -> None:
        """Tell whoever may interrupt; one that comes at once waits until it has an effect."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        self._emit({"type": "begun"})
        self._is_interruptible = True
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    def _execute(self, code: str, filename: str, scope: dict[str, Any]) -> None:
        tree = ast.parse(code, filename)
        linecache.cache[filename] = (len(code), None, code.splitlines(keepends=True), filename)
        last: ast.expr | None = None
        if tree.body and isinstance(tree.body[-1], ast.Expr):
            last = tree.body[-1].value
            del tree.body[-1]
        if tree.body:
            exec(compile(tree, filename, "exec"), scope)
        if last is not None:
            value = eval(compile(ast.Expression(last), filename, "eval"), scope)
            if value is not None:
                scope["_"] = value
                self._show(results.describe(value), is_main=True)
        for figure in results.take_figures():
            self._show(figure, is_main=False)

    def _display(self, *values: object) -> None:
        """Show values in their richest forms, where they occur in the code."""
        for value in values:
            self._show(results.describe(value), is_main=False)

    def _show(self, bundle: results.Bundle, *, is_main: bool) -> None:
        sys.stdout.flush()
        size = sum(len(text) for text in bundle.values())
        if size <= self._budget_bytes:
            message: JsonObject = {"type": "result", "data": bundle, "main": is_main}
            encoded = len(wire.encode_json(message)) if size > wire.MESSAGE_MAX_BYTES // 8 else size
            if encoded + _ENVELOPE_BYTES <= wire.MESSAGE_MAX_BYTES:
                self._budget_bytes -= size
                self._emit(message)
                return
        self._budget_bytes = 0
        raise ResultTooLargeError(f"a result of {size} characters is over the limit")

    def _flush(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()

    def _leave_if_forked(self) -> None:
        if os.getpid() != self._pid:
            os._exit(0)

    def _leave(self, exc: SystemExit) -> None:
        if exc.code is not None and not isinstance(exc.code, int):
            with suppress(Exception):
                print(exc.code, file=sys.stderr)
        status = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
        if os.getpid() == self._pid:
            atexit._run_exitfuncs()
        self._flush()
        os._exit(status & 0xFF)


def _restore_environment(before: dict[str, str | None]) -> None:
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _text_stream(fd: int) -> io.TextIOWrapper:
    raw = io.FileIO(fd, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw, 65536),
        encoding="utf-8",
        errors="backslashreplace",
        line_buffering=True,
    )


def describe_exception(exc: BaseException) -> JsonObject:
    """The `error` message for an exception, its traceback without the runtime's own frames."""
    try:
        formatted = traceback.TracebackException(type(exc), exc, exc.__traceback__, compact=True)
        formatted.stack[:] = [
            frame for frame in formatted.stack if frame.filename not in _OUR_FILES
        ]
        lines = "".join(formatted.format()).splitlines()
    except Exception as failure:
        lines = [f"{type(exc).__name__} (its traceback cannot be shown: {failure!r})"]
    return {
        "type": "error",
        "name": type(exc).__name__,
        "value": _text_of(exc),
        "traceback": [line[:2000] for line in lines[:1000]],
    }


def _text_of(exc: BaseException) -> str:
    try:
        return str(exc)[:100_000]
    except Exception:
        return "<its text cannot be shown>"


_OUR_FILES = frozenset(code.co_filename for code in (_text_of.__code__, ast.parse.__code__))
