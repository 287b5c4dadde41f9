"""The compiled part: which extensions there are, and the four ways to build them.

FAIRLEAD_BUILD=release   (default) what users get: no checks, -O3
FAIRLEAD_BUILD=checked   CHECK() aborts on a broken internal rule; optimised a little, debuggable
FAIRLEAD_BUILD=trace     line tracing, for coverage of the .pyx files
FAIRLEAD_BUILD=asan      as checked, under AddressSanitizer and UndefinedBehaviorSanitizer

Metadata lives in pyproject.toml. Generated C goes to build/cython-MODE (beside the .pyx in trace mode,
where Cython's coverage plugin looks for it); none of it is kept in git or shipped.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

LINUX = sys.platform == "linux"

MODES = {
    "release": {
        "cflags": ["-O3", "-DNDEBUG"],
        "directives": {},
    },
    "checked": {
        "cflags": ["-O1", "-g", "-DFAIRLEAD_CHECKS=1"],
        "directives": {},
    },
    "trace": {
        # All three are needed: with sys.monitoring, coverage loads no plugins.
        "cflags": ["-O0", "-DCYTHON_TRACE=1", "-DCYTHON_TRACE_NOGIL=1", "-DCYTHON_USE_SYS_MONITORING=0"],
        "directives": {"linetrace": True},
    },
    "asan": {
        "cflags": [
            "-O1",
            "-g",
            "-DFAIRLEAD_CHECKS=1",
            "-fsanitize=address,undefined",
            "-fno-sanitize-recover=undefined",
            "-fno-omit-frame-pointer",
        ],
        "directives": {},
        "ldflags": ["-fsanitize=address,undefined"],
    },
}

# Once, here, never per file. freethreading_compatible is a promise that waits for a test without the GIL.
DIRECTIVES = {
    "language_level": 3,
    "binding": True,
    "auto_pickle": False,
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
    "embedsignature": False,
}

# Python stays Python: only the attributes of its classes, and what its .pxd says, are C's.
PYTHON = {"language_level": 3, "binding": True, "auto_pickle": False, "annotation_typing": False}

# Floating point must be the same everywhere: a fused multiply-add changes 22 of 6,464 values of score_raw.
COMMON_FLAGS = ["-std=c11", "-fno-strict-aliasing", "-ffp-contract=off", "-fvisibility=hidden"]
COMMON_FLAGS += ["-Wno-unused-but-set-variable"]  # generated C, where CHECK is nothing


def extensions(mode: dict[str, list[str]], root: str, paths: list[Path]) -> list[Extension]:
    return [
        Extension(
            ".".join(path.relative_to(root).with_suffix("").parts),
            [str(path)],
            include_dirs=["ext/include"],
            depends=["ext/include/fairlead.h"],
            extra_compile_args=COMMON_FLAGS + mode["cflags"],
            extra_link_args=mode.get("ldflags", []),
        )
        for path in paths
    ]


def compiled(name: str) -> list[Extension]:
    """What is written in Cython, and the Python that is on the way of each request: it has a .pxd beside it."""
    mode = MODES[name]
    # The load generator needs Linux's epoll.
    pyx = [path for path in sorted(Path("ext").glob("fairlead/*/*.pyx")) if path.parent.name != "load" or LINUX]
    cython = extensions(mode, "ext", pyx)
    python = extensions(mode, "src", [path.with_suffix(".py") for path in sorted(Path("src").glob("fairlead/*.pxd"))])
    options = {
        "include_path": ["ext", "src"],
        # Cython does not see that directives changed: one directory per mode, and always anew outside release.
        "build_dir": None if name == "trace" else f"build/cython-{name}",
        "force": name != "release",
        "emit_linenums": name in ("checked", "asan"),
    }
    return [
        *cythonize(cython, compiler_directives=DIRECTIVES | mode["directives"], **options),
        *cythonize(python, compiler_directives=PYTHON | mode["directives"], **options),
    ]


def main() -> None:
    name = os.environ.get("FAIRLEAD_BUILD", "release")
    if name not in MODES:
        sys.exit(f"setup.py: FAIRLEAD_BUILD is {name!r}: choose one of {', '.join(MODES)}")
    setup(ext_modules=compiled(name), options={"build_ext": {"parallel": os.cpu_count() or 1}})


main()
