"""Compile a program that runs a stand-in of ours, whatever name it is started by.

Drivers start a monitor with the name of a machine in the place of the program's. An interpreter
cannot be started so, hence a launcher in C. The stand-in is told where the launcher lies.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_LAUNCHER = r"""
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
        char here[4096], *words[256];
        ssize_t length = readlink("/proc/self/exe", here, sizeof(here) - 1);
        int n = 0;
        if (length < 0 || argc > 200)
                return 127;
        here[length] = '\0';
        *strrchr(here, '/') = '\0';
        setenv("PYTHONHOME", HOME, 1);
        setenv("PYTHONDONTWRITEBYTECODE", "1", 1);
        words[n++] = argv[0];
        words[n++] = "-S";
        words[n++] = PROGRAM;
        words[n++] = here;
        for (int i = 1; i < argc; i++)
                words[n++] = argv[i];
        words[n] = NULL;
        execv(PYTHON, words);
        return 127;
}
"""


def build(program: Path, script: Path) -> Path:
    """Compile one. Args: program: to be made. script: in Python, what it runs. Returns: program."""
    source = program.with_name("launcher.c")
    source.write_text(_LAUNCHER)
    python = Path(sys.base_prefix, "bin", f"python3.{sys.version_info.minor}")
    words = {"HOME": sys.base_prefix, "PROGRAM": str(script), "PYTHON": str(python)}
    defines = [f'-D{name}="{value}"' for name, value in words.items()]
    subprocess.run(["cc", "-O1", *defines, "-o", program, source], check=True)
    return program
