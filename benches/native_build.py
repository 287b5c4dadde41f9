"""Builds what the benchmarks need and users do not: the C loop around the core, and the first design in Rust."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "benches"


def core_loop() -> ModuleType:
    """The extension module core_loop, compiled against the core's .pxd files if it is older than the core."""
    build_core_loop()
    return load_core_loop()


def build_core_loop() -> None:
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension
    from setuptools.command.build_ext import build_ext

    from fairlead.core import scheduler

    BUILD.mkdir(parents=True, exist_ok=True)
    extension = Extension(
        "core_loop",
        [str(ROOT / "benches/native/core_loop.pyx")],
        include_dirs=[str(ROOT / "ext/include")],
        extra_compile_args=["-O3", "-DNDEBUG", "-Wno-unused-but-set-variable"],
    )
    command = build_ext(
        Distribution(
            {
                "ext_modules": cythonize(
                    [extension],
                    include_path=[str(ROOT / "ext")],
                    build_dir=str(BUILD),
                    compiler_directives={"language_level": 3, "cdivision": True, "boundscheck": False},
                    quiet=True,
                )
            }
        )
    )
    command.build_lib = str(BUILD)
    command.build_temp = str(BUILD / "objects")
    command.force = Path(scheduler.__file__).stat().st_mtime > newest(BUILD / "objects")
    command.ensure_finalized()
    command.run()


def load_core_loop() -> ModuleType:
    """core_loop as it was built, without the tools to build it."""
    path = BUILD / ("core_loop" + sysconfig.get_config_var("EXT_SUFFIX"))
    spec = importlib.util.spec_from_file_location("core_loop", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def newest(folder: Path) -> float:
    return max((path.stat().st_mtime for path in folder.rglob("*") if path.is_file()), default=0.0)


def mutex_design() -> Path | None:
    """The compiled Rust program, or None where there is no rustc."""
    source = ROOT / "benches/native/mutex_design.rs"
    program = BUILD / "mutex_design"
    if shutil.which("rustc") is None:
        return None
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        BUILD.mkdir(parents=True, exist_ok=True)
        subprocess.run(["rustc", "-O", "-o", str(program), str(source)], check=True)
    return program


if __name__ == "__main__":
    build_core_loop()
    sys.exit(0 if mutex_design() else "there is no rustc: the C loop is built, the Rust program is not")
