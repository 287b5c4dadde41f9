"""Does the rig see faults? An over-read and an undefined shift are planted in a module of their own, built with the
flags and run in the environment of the asan build: both must be reported, and the same module without a fault not.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FLAGS = "-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer"
SETUP = """
from Cython.Build import cythonize
from setuptools import Extension, setup
flags = {flags!r}.split()
setup(
    name="canary",
    ext_modules=cythonize(
        [Extension("canary", ["canary.pyx"], extra_compile_args=flags, extra_link_args=flags[2:3])], language_level=3
    ),
    script_args=["-q", "build_ext", "--inplace"],
)
"""


def runtime(name: str) -> str | None:
    """gcc's sanitizer runtime; gcc answers with the bare name if it has none."""
    if shutil.which("gcc") is None:
        return None
    found = subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    path = found.stdout.strip()
    return path if os.path.isabs(path) else None


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("Cython", reason="the canary is built here, with Cython")
    if runtime("libasan.so") is None or runtime("libubsan.so") is None:
        pytest.skip("gcc's sanitizer runtimes are not installed")
    folder = tmp_path_factory.mktemp("canary")
    shutil.copy(HERE / "canary.pyx", folder)
    (folder / "setup.py").write_text(SETUP.format(flags=FLAGS))
    plain = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}  # gcc itself leaks, and may
    subprocess.run([sys.executable, "setup.py"], cwd=folder, check=True, capture_output=True, env=plain)
    return folder


def run(canary: Path, call: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "LD_PRELOAD": f"{runtime('libasan.so')} {runtime('libubsan.so')}",
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": str(canary),
    }
    command = [sys.executable, "-c", f"import canary; print(canary.{call})"]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_a_planted_over_read_is_reported(canary: Path) -> None:
    child = run(canary, "over_read(10)")
    assert child.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in child.stderr


def test_a_planted_undefined_shift_is_reported(canary: Path) -> None:
    child = run(canary, "shift(40)")
    assert child.returncode != 0
    assert "runtime error: shift exponent 40 is too large" in child.stderr


def test_the_same_without_a_fault_is_not_reported(canary: Path) -> None:
    child = run(canary, "well(10)")
    assert (child.returncode, child.stdout.strip(), child.stderr) == (0, "8", "")


@pytest.mark.skipif(os.environ.get("FAIRLEAD_RIG") != "asan", reason="only in the asan rig")
def test_the_rig_runs_the_core_under_the_sanitizers() -> None:
    from fairlead.core import memory, scheduler

    assert memory.checks_are_on()
    linked = subprocess.run(["ldd", scheduler.__file__], capture_output=True, text=True, check=True).stdout
    assert "libasan" in linked and "libubsan" in linked
    assert "libasan" in os.environ["LD_PRELOAD"] and os.environ["PYTHONMALLOC"] == "malloc"
