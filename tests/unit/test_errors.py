"""Errors cross processes, and are copied, whole."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest

from agentd.errors import (
    ConfigError,
    ErrorCode,
    InvariantError,
    PeerError,
    PermanentError,
    SnapStartError,
    TransientError,
    UsageError,
)
from agentd.native import ForkError, ForkStage

ERRORS = (
    ConfigError(ErrorCode.CONFIG_INVALID, "reading it", hint="correct it"),
    UsageError(ErrorCode.NAME_INVALID, "naming it"),
    PeerError(ErrorCode.VMM_FAILED, "starting it", hint="look"),
    TransientError(ErrorCode.NODE_FULL, "starting it", hint="wait", delay_s=7.0),
    PermanentError(ErrorCode.TEMPLATE_CORRUPT, "loading it"),
    InvariantError("it cannot be"),
    ForkError(ErrorCode.VMM_FAILED, "forking", stage=ForkStage.LOAD, exit_status=9),
)


def pickled(error: SnapStartError) -> SnapStartError:
    again: SnapStartError = pickle.loads(pickle.dumps(error))
    return again


@pytest.mark.parametrize("again", [pickled, copy.copy, copy.deepcopy], ids=lambda one: one.__name__)
@pytest.mark.parametrize("error", ERRORS, ids=lambda one: type(one).__name__)
def test_an_error_is_the_same_after_a_copy(
    error: SnapStartError, again: Callable[[SnapStartError], SnapStartError]
) -> None:
    copied = again(error)
    assert type(copied) is type(error)
    assert (copied.args, vars(copied), str(copied)) == (error.args, vars(error), str(error))
