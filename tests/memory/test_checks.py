"""CHECK ends the process with the place of the broken rule where checks are on, and is nothing where they are off.

No call from Python can break a rule of the core, so the rule that is broken here is one of a C program of four lines.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
#include "fairlead.h"
int main(int count, char **arguments) {
    CHECK(count == 1);
    puts("went on");
    return 0;
}
"""


@pytest.mark.parametrize(("checks", "wrong"), [(1, True), (1, False), (0, True)])
def test_check_aborts_with_file_and_line_where_it_is_on(tmp_path: Path, checks: int, wrong: bool) -> None:
    header = ROOT / "ext/include"
    if shutil.which("gcc") is None or not header.exists():
        pytest.skip("needs gcc and the sources")
    (tmp_path / "rule.c").write_text(PROGRAM)
    command = ["gcc", "-Wall", "-Werror", f"-DFAIRLEAD_CHECKS={checks}", f"-I{header}", "rule.c", "-o", "rule"]
    subprocess.run(command, cwd=tmp_path, check=True)
    child = subprocess.run(["./rule", *["more"] * wrong], cwd=tmp_path, capture_output=True, text=True, check=False)
    if checks and wrong:
        assert child.returncode == -6
        assert child.stderr == "rule.c:4: broken rule: count == 1\n"
    else:
        assert (child.returncode, child.stdout) == (0, "went on\n")
