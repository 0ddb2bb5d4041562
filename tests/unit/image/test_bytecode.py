"""Byte code for the guest."""

from __future__ import annotations

import importlib.util
import marshal
import sys

from agentd.image.bytecode import add_bytecode, compile_source
from agentd.image.tree import Tree, file

HERE = (sys.version_info.major, sys.version_info.minor)


def tree_with(path: str, source: bytes) -> Tree:
    tree = Tree()
    tree.add(path, file(source))
    return tree


def test_the_header_says_unchecked_hash() -> None:
    code = compile_source(b"x = 1\n", "/x.py")
    assert code is not None
    assert code[:4] == importlib.util.MAGIC_NUMBER
    assert code[4:8] == b"\x01\0\0\0"
    assert code[8:16] == importlib.util.source_hash(b"x = 1\n")
    assert marshal.loads(code[16:]).co_filename == "/x.py"


def test_bytes_do_not_depend_on_what_else_the_process_holds() -> None:
    source = b"def f(a):\n    return some_rare_name_17 + a\n"
    before = compile_source(source, "/x.py")
    held = [sys.intern("some_rare_name_" + str(n)) for n in range(20)]
    assert compile_source(source, "/x.py") == before
    assert held


def test_a_source_that_does_not_compile_is_passed_over() -> None:
    tree = tree_with("usr/lib/python3.11/bad.py", b"print 'old'\n")
    assert add_bytecode(tree, HERE, lambda _event: None) == ""
    assert [path for path, item in tree if item.is_file] == ["usr/lib/python3.11/bad.py"]


def test_each_source_gets_its_cache_file() -> None:
    tree = tree_with("usr/lib/snapstart/agentd/guest/wire.py", b"x = 1\n")
    add_bytecode(tree, HERE, lambda _event: None)
    tag = sys.implementation.cache_tag
    assert tree.has(f"usr/lib/snapstart/agentd/guest/__pycache__/wire.{tag}.pyc")


def test_another_python_in_the_guest_means_no_byte_code_and_a_note() -> None:
    tree = tree_with("usr/lib/python3.99/x.py", b"x = 1\n")
    assert "it is for Python 3.99" in add_bytecode(tree, (3, 99), lambda _event: None)
    assert len(tree) == 4
