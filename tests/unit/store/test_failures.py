"""Which error a failed system call becomes."""

from __future__ import annotations

import errno

import pytest

from agentd.errors import ConfigError, ErrorCode, PermanentError, TransientError
from agentd.store.failures import READING, WRITING, classify_os_error


@pytest.mark.parametrize(
    ("number", "code", "kind"),
    [
        (errno.ENOSPC, ErrorCode.DISK_FULL, TransientError),
        (errno.EDQUOT, ErrorCode.DISK_FULL, TransientError),
        (errno.EFBIG, ErrorCode.DISK_FULL, TransientError),
        (errno.EACCES, ErrorCode.PERMISSION_DENIED, ConfigError),
        (errno.EROFS, ErrorCode.PERMISSION_DENIED, ConfigError),
        (errno.ECANCELED, ErrorCode.SHUTTING_DOWN, TransientError),
        (errno.EMFILE, ErrorCode.NODE_FULL, TransientError),
        (errno.EAGAIN, ErrorCode.NODE_FULL, TransientError),
        (errno.EIO, ErrorCode.TEMPLATE_BUILD_FAILED, PermanentError),
    ],
    ids=lambda value: errno.errorcode[value] if isinstance(value, int) else "",
)
def test_failed_writing(number: int, code: ErrorCode, kind: type) -> None:
    error = classify_os_error(
        OSError(number, "x", "memory"), "sealing t", WRITING, ErrorCode.TEMPLATE_BUILD_FAILED
    )
    assert type(error) is kind
    assert error.code is code
    assert error.message.startswith("sealing t failed: ")
    assert error.message.endswith("(memory)")


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.EIO, ErrorCode.TEMPLATE_CORRUPT),
        (errno.ENODATA, ErrorCode.TEMPLATE_CORRUPT),
        (errno.ENOENT, ErrorCode.TEMPLATE_CORRUPT),
        (errno.ENOMEM, ErrorCode.NO_MEMORY),
        (errno.ENOSPC, ErrorCode.NO_MEMORY),
        (errno.EMFILE, ErrorCode.NODE_FULL),
        (errno.EACCES, ErrorCode.PERMISSION_DENIED),
        (errno.EBADF, ErrorCode.INTERNAL),
    ],
    ids=lambda value: errno.errorcode[value] if isinstance(value, int) else "",
)
def test_failed_reading_blames_the_template_only_for_lost_bytes(
    number: int, code: ErrorCode
) -> None:
    error = classify_os_error(OSError(number, "x"), "loading t", READING, ErrorCode.INTERNAL)
    assert error.code is code
