"""Habits that a reader counts on: short files and functions, finished work, no trace of a machine or of generators."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINES_MAX = 400
FUNCTION_LINES_MAX = 60
# Longer, and why. An entry that is not needed any more fails the test.
LONG_FUNCTIONS: dict[str, str] = {}

pytestmark = pytest.mark.skipif(not (ROOT / "ext").exists(), reason="the sources are not at hand")


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0 or not listed.stdout:
        pytest.skip("not a git checkout")
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).exists()]


def cython_functions(text: str) -> list[tuple[str, int]]:
    """(name, lines) of every function; bodies end where something stands at the function's own indentation or less."""
    lines = text.splitlines()
    found = []
    for number, line in enumerate(lines):
        match = re.match(r"( *)(?:def|cdef|cpdef)\b(?! class)[^=]*?(\w+)\(", line)
        if not match or (line.rstrip().endswith("nogil") and not line.rstrip().endswith(":")):
            continue
        end = number + 1
        while end < len(lines) and not lines[end - 1].rstrip().endswith(":"):
            end += 1
        while end < len(lines) and (
            not lines[end].strip() or len(lines[end]) - len(lines[end].lstrip()) > len(match[1])
        ):
            end += 1
        found.append((match[2], len("\n".join(lines[number:end]).rstrip().splitlines())))
    return found


def python_functions(text: str) -> list[tuple[str, int]]:
    return [
        (node.name, (node.end_lineno or node.lineno) - node.lineno + 1)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def test_files_are_short() -> None:
    data = set(tracked("benches/traces/*"))  # not written by hand
    sources = [path for path in tracked("src/*.py", "ext/*.pyx", "ext/*.pxd", "benches/*", ".ci/*") if path not in data]
    assert not {path.name: count for path in sources if (count := path.read_bytes().count(b"\n")) > LINES_MAX}


def test_functions_are_short() -> None:
    found: dict[str, int] = {}
    for path in tracked("src/*.py", "benches/*.py", "ext/*.pyx", "benches/native/*.pyx"):
        text = path.read_text(encoding="utf-8")
        functions = python_functions(text) if path.suffix == ".py" else cython_functions(text)
        found |= {f"{path.name}:{name}": lines for name, lines in functions if lines > FUNCTION_LINES_MAX}
    assert set(found) == set(LONG_FUNCTIONS)


def test_the_measure_of_cython_functions_measures() -> None:
    one = "cdef int one(int a,\n             int b) noexcept nogil:\n    return a\n"
    text = one + "\n\ncdef void two() noexcept:\n    pass\n"
    assert cython_functions(text) == [("one", 3), ("two", 2)]


UNFINISHED = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b|except[^:\n]*:\s*pass\b")
MACHINE = re.compile(r"/(?:work|root|home)/\w|pypi\.org|pythonhosted|registry\.npmjs|deb\.debian")


@pytest.mark.parametrize("pattern", [UNFINISHED, MACHINE], ids=["unfinished", "machine"])
def test_no_file_is_unfinished_or_knows_a_machine(pattern: re.Pattern[str]) -> None:
    for path in tracked():
        if path.suffix in (".gguf", ".rs", ".png") or path == Path(__file__).resolve() or path.name == "LICENSE":
            continue
        found = pattern.search(path.read_text(encoding="utf-8"))
        assert found is None, f"{path.relative_to(ROOT)}: {found[0]!r}"


def test_nothing_generated_is_tracked() -> None:
    generated = [path for path in tracked() if path.suffix in (".so", ".pyc", ".html") or path.suffix == ".c"]
    assert not generated


HOT = {
    "dispatch.pxd": ["core_submit", "core_drain", "core_finish", "core_cancel", "core_requeue", "core_move"],
    "fairqueue.pxd": ["queue_append", "queue_remove", "queue_next", "queue_dispatch", "queue_finish", "queue_requeue"],
    "heap.pxd": ["heap_push", "heap_remove", "heap_update", "heap_at", "heap_top"],
    "nodes.pxd": ["node_choose", "node_lease", "node_release", "node_refresh"],
    "flows.pxd": ["user_find", "flow_find", "flow_obtain", "flow_settle"],
    "shares.pxd": ["enter", "leave", "rekey", "share_charge"],
    "slots.pxd": ["slots_take", "slots_give", "slots_find"],
    "crowd.pxd": ["crowd_update", "crowd_is_below_share", "crowd_victim"],
}


def test_hot_functions_touch_no_python_object() -> None:
    """The compiler proves it of a function that is noexcept nogil; here it is only seen that each one says so."""
    for name, functions in HOT.items():
        text = (ROOT / "ext/fairlead/core" / name).read_text()
        for function in functions:
            declared = re.search(rf"^cdef [^\n]*\b{function}\([^)]*\)([^\n:]*)", text, re.MULTILINE)
            assert declared is not None, f"{name}: {function} is not declared"
            assert declared[1].strip() == "noexcept nogil", f"{name}: {function} is not noexcept nogil"
