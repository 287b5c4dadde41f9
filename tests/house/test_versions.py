"""One version, and no dependency too many or too few."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

import fairlead

ROOT = Path(__file__).resolve().parents[2]
MODULE_OF = {"PyYAML": "yaml", "prometheus-client": "prometheus_client"}
# Comes with aiohttp, whose interface hands out its types.
COMES_ALONG = {"multidict"}


def test_the_changelog_begins_with_this_version() -> None:
    changelog = ROOT / "CHANGELOG.md"
    if not changelog.exists():
        pytest.skip("the sources are not at hand")
    newest = re.search(r"^## \[?(\d+\.\d+\.\d+)", changelog.read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None
    assert newest[1] == fairlead.__version__


def test_dependencies_are_what_is_imported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {re.split(r"[<>=!~;\[ ]", line)[0] for line in project["dependencies"]}
    wanted = {MODULE_OF.get(name, name) for name in named}
    used: set[str] = set()
    for path in Path(fairlead.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            used |= {name.split(".")[0] for name in names}
    optional = {re.split(r"[<>=]", line)[0] for line in project["optional-dependencies"]["plot"]}
    assert used - set(sys.stdlib_module_names) - {"fairlead"} - COMES_ALONG == wanted | optional
