"""What stays out of an image."""

from __future__ import annotations

import pytest

from agentd.image.trim import is_trimmed


@pytest.mark.parametrize(
    "path",
    [
        "usr/share/doc",
        "usr/share/gdb",
        "usr/include",
        "usr/lib/x86_64-linux-gnu/libm.a",
        "usr/lib/x86_64-linux-gnu/gconv",
        "usr/lib/python3/dist-packages/numpy/core/tests",
        "usr/lib/python3.11/test",
        "usr/lib/python3.11/lib2to3",
        "usr/lib/python3.11/turtle.py",
        "usr/lib/python3.11/lib-dynload/_testcapi.cpython-311-x86_64-linux-gnu.so",
        "usr/lib/python3/dist-packages/numpy/f2py",
        "usr/lib/python3/dist-packages/numpy/core/include",
        "usr/lib/python3/dist-packages/numpy/__init__.pyi",
    ],
)
def test_it_is_dropped(path: str) -> None:
    assert is_trimmed(path)


@pytest.mark.parametrize(
    "path",
    [
        "usr/share",
        "usr/share/zoneinfo",
        "usr/lib/python3/dist-packages/numpy",
        "usr/lib/python3/dist-packages/numpy/testing",
        "usr/lib/python3/dist-packages/django/test",
        "usr/lib/python3.11/unittest",
        "usr/lib/python3/dist-packages/numpy/core",
        "usr/lib/python3/dist-packages/numpy/distutils",
        "usr/lib/python3.11/distutils",
        "usr/lib/x86_64-linux-gnu/libm.so.6",
        "etc/os-release",
    ],
)
def test_it_is_kept(path: str) -> None:
    assert not is_trimmed(path)
