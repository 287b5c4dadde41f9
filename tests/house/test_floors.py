"""Imports point down only: the house of the design, floor by floor."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import fairlead

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(fairlead.__file__).parent

# From the ground up. Within a floor a module may import those before it.
FLOORS = (
    ("_version", "core", "wire"),
    (
        "errors",
        "clock",
        "strict",
        "config_file",
        "config_schema",
        "config",
        "effective",
        "multipart",
        "inspection",
        "identity",
        "fairness",
        "usage",
        "policy",
        "rate",
        "engines",
    ),
    (
        "places",
        "ticket",
        "driver",
        "lines",
        "records",
        "pieces",
        "accounts",
        "users",
        "user_metrics",
        "metrics",
        "upstream_exchange",
        "upstream_connection",
        "upstream",
        "headers",
        "refusals",
        "call",
        "gateway",
    ),
    ("pools", "probes", "nodes", "listener", "discover", "frontend", "user_list", "admin"),
    ("app",),
    (
        "workload",
        "mixes",
        "traces",
        "simulate_gap",
        "simulate",
        "simulate_report",
        "simulate_run",
        "mocknode",
        "serve",
        "demo",
        "load",  # compiled, but no part of the router: nothing below may import it
        "bench",
        "bench_machine",
        "bench_node",
        "bench_turns",
        "bench_report",
        "bench_run",
        "cli",
        "__main__",
    ),
)
ORDER = {module: place for place, module in enumerate(module for floor in FLOORS for module in floor)}
# Pure: numbers and text in, numbers and text out.
NOT_BELOW_DRIVER = {"asyncio", "aiohttp", "uvloop", "socket", "httptools", "threading"}


def imported(path: Path) -> set[str]:
    """Full names of the modules that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            module = node.module or ""
            names |= {f"{module}.{alias.name}" for alias in node.names} if module == "fairlead" else {module}
    return names


def own(names: set[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("fairlead.")} - {"__version__"}


MODULES = sorted(path for path in SOURCE.glob("*.py") if path.name != "__init__.py")


def test_every_module_has_a_place_and_every_place_a_module() -> None:
    there = {path.stem for path in MODULES} | {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert there == set(ORDER)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_imports_point_down(path: Path) -> None:
    up = {name for name in own(imported(path)) if ORDER[name] >= ORDER[path.stem]}
    assert not up, f"{path.stem} imports {', '.join(sorted(up))} from above"


@pytest.mark.parametrize("module", FLOORS[1])
def test_the_first_floor_does_no_io(module: str) -> None:
    roots = {name.split(".")[0] for name in imported(SOURCE / f"{module}.py")}
    assert not roots & NOT_BELOW_DRIVER
    assert not {name for name in imported(SOURCE / f"{module}.py") if name.startswith("fairlead.core")}


@pytest.mark.parametrize("path", sorted((ROOT / "ext").rglob("*.p[yx][xd]")), ids=lambda path: path.name)
def test_the_ground_floor_reads_no_clock_and_imports_nothing_from_above(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path.parent.name != "load":  # sends and times requests: it is no part of the router
        assert not re.search(r"\b(clock_gettime|gettimeofday|monotonic|perf_counter|time\(\))", text)
    for name in re.findall(r"^(?:from|cimport|import) +(fairlead[\w.]*)", text, re.MULTILINE):
        assert name.split(".")[1] == path.parent.name
