"""Objects die silently, whole and half-built ones: an error in a deallocator never reaches its process, only stderr."""

from __future__ import annotations

import subprocess
import sys

import pytest

WHOLE = """
from fairlead.core import scheduler as core
from fairlead.core.heap import IndexedHeap
kept = core.Scheduler(waiting_max=5, running_max=5)   # dies with the interpreter
pool = kept.add_pool(0)
kept.submit(0, pool, 1, 1, 1, 1, 0, core.NEVER, 0, 0)
core.Scheduler(waiting_max=5, running_max=5)
IndexedHeap(5).push(1, 1)
"""
HALF_BUILT = """
from fairlead.core import memory, scheduler as core
from fairlead.core.heap import IndexedHeap
for make in (lambda: core.Scheduler(waiting_max=5, running_max=5), lambda: IndexedHeap(5)):
    for k in range(40):
        memory.fail_allocation_after(k)
        try:
            make()
        except MemoryError:
            continue
        break
    else:
        raise SystemExit("it never worked")
    memory.fail_allocation_after(-1)
for wrong in (dict(waiting_max=-1, running_max=1), dict(waiting_max=1, running_max=1, seed=-1)):
    try:
        core.Scheduler(**wrong)
    except ValueError:
        continue
    raise SystemExit("it was taken")
"""


@pytest.mark.parametrize("script", [WHOLE, HALF_BUILT], ids=["whole", "half-built"])
def test_objects_die_silently(script: str) -> None:
    child = subprocess.run([sys.executable, "-X", "dev", "-c", script], capture_output=True, text=True, check=False)
    assert (child.returncode, child.stderr) == (0, "")
