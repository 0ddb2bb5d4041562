"""Build the C core's two Python modules, the page server, and the messages of foreign protocols.

Environment: SNAPSTART_SANITIZE (for example address,undefined), SNAPSTART_DEBUG=1,
SNAPSTART_COVERAGE=1; anything else comes from CFLAGS as usual.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
CORE = [
    "deadline.c",
    "json_scan.c",
    "line_client.c",
    "qmp.c",
    "spawn.c",
    "mux.c",
    "message_link.c",
    "inject_session.c",
    "inject.c",
    "watch.c",
    "ready.c",
    "checkpoint.c",
    "fork.c",
]

sys.path.insert(0, str(ROOT / "native" / "shim"))
import build_cold  # type: ignore[import-not-found]  # noqa: E402  (not in the package)
import build_protos  # type: ignore[import-not-found]  # noqa: E402  (likewise)


def compiler_flags() -> tuple[list[str], list[str]]:
    """Return (compile, link) flags chosen by the environment."""
    flags = ["-std=gnu11", "-Wall", "-Wextra", "-fvisibility=hidden"]
    link: list[str] = []
    if os.environ.get("SNAPSTART_DEBUG"):
        flags += ["-O0", "-g3"]
    else:
        flags += ["-O2", "-g", "-D_FORTIFY_SOURCE=2", "-fstack-protector-strong"]
        link += ["-Wl,-z,relro,-z,now"]
    if sanitize := os.environ.get("SNAPSTART_SANITIZE"):
        extra = [f"-fsanitize={sanitize}", "-fno-omit-frame-pointer", "-U_FORTIFY_SOURCE"]
        flags += extra
        link += extra[:1]
    if os.environ.get("SNAPSTART_COVERAGE"):
        flags += ["--coverage"]
        link += ["--coverage"]
    return flags, link


def core_extension(flags: list[str], link: list[str]) -> Extension:
    """Describe agentd._core: the hot calls, through Cython."""
    return Extension(
        "agentd._core",
        ["native/shim/core.pyx", *(f"native/core/{name}" for name in CORE)],
        include_dirs=["native/core"],
        extra_compile_args=flags,
        extra_link_args=link,
    )


class BuildNative(build_ext):
    """Build the extensions, and the page server beside them: agentd/snap-pager, a program."""

    def run(self) -> None:
        """Build all of it."""
        super().run()
        directory = ROOT / "build" / "pager"
        jobs = f"-j{os.cpu_count()}"
        command = ["make", "-s", jobs, "-C", str(ROOT / "native"), f"O={directory}", "pager"]
        subprocess.run(command, check=True)
        is_in_place = self.inplace or self.editable_mode
        package = (ROOT if is_in_place else Path(self.build_lib)) / "agentd"
        # Renamed into place: one that runs now cannot be written to.
        made = shutil.copy2(directory / "snap-pager", package / ".snap-pager.new")
        os.replace(made, package / "snap-pager")


build_protos.generate(ROOT)
compile_flags, link_flags = compiler_flags()
setup(
    cmdclass={"build_ext": BuildNative},
    ext_modules=[
        *cythonize(  # type: ignore[no-untyped-call]
            [core_extension(compile_flags, link_flags)], quiet=True
        ),
        build_cold.build(compile_flags, link_flags).distutils_extension("build/cffi"),
    ],
)
