"""The compiled cffi module over the C core (native/shim/build_cold.py)."""

from typing import Any

ffi: Any
lib: Any
