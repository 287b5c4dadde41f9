"""Every rule of the core is broken here, one at a time and from behind, in a scheduler that was in order.

``check`` must name it (this is what /api/invariants shows), and in a checked build whatever stumbles over it must end
the process with file and line. The breaking is done by vandal.pyx, which is built here against the core's .pxd files.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest

from fairlead.core import scheduler as core
from fairlead.core.heap import IndexedHeap
from fairlead.core.memory import checks_are_on

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

NOTICED = {
    "request_in_a_strange_queue": "a queue holds a request that is not its own",
    "wrong_link_back": "a queue links back wrongly",
    "wrong_order": "a user's requests are not in order",
    "wrong_length": "a queue's length or end is wrong",
    "limit_without_effect": "a user is eligible and not ready, or the other way round",
    "idle_flow_nowhere": "a flow with nothing to do is not idle, or the other way round",
    "idle_flow_overtaken": "an idle flow without debt was kept",
    "share_left_in_a_heap": "a share is in a heap and should not be",
    "wrong_stamp": "a share is not where its position says",
    "wrong_start": "a share's key in its heap is not its virtual start",
    "page_too_many": "a heap holds more or fewer pages than its size needs",
    "page_too_many_of_the_ready": "a heap holds more or fewer pages than its size needs",
    "page_too_many_of_the_idle": "a heap holds more or fewer pages than its size needs",
    "page_too_many_of_the_open": "a heap holds more or fewer pages than its size needs",
    "wrong_heap_position": "a heap's position map disagrees with its entries",
    "heap_out_of_order": "a heap entry is smaller than its parent",
    "wrong_level_count": "a level's counts are not the sums over its children",
    "wrong_ready_weight": "a level's eligible children or their weight are counted wrongly",
    "full_pool_opened": "a pool is eligible and not ready, or the other way round",
    "calm_pool_closed": "a pool is open without room, or the other way round",
    "endless_list_of_flows": "a user's list of flows is broken",
    "wrong_user_count": "a user's counts are not the sums over its pools",
    "wrong_user_key": "a user can't be found by its key",
    "wrong_flow_count": "flows are counted wrongly",
    "deadline_of_a_running_request": "a waiting request has no deadline, or one that does not wait has",
    "wrong_deadline": "a request's key in the deadline heap is not its effective deadline",
    "wrong_root_count": "the queue's counts are not the requests' states",
    "wrong_slots_used": "slots in use, waiting and running do not add up",
    "wrong_bytes": "waiting bytes are counted wrongly",
    "node_not_offered": "a node is open and not offered, or the other way round",
    "stale_score": "a node's score is stale",
    "wrong_members": "a pool's nodes are counted wrongly",
    "wrong_leases": "a node's leases are not the running requests on it",
    "pool_down_with_a_node": "a pool is down with a usable node, or the other way round",
    "group_closed": "a group is closed",
    "endless_list_of_places": "a limit's list of places is broken",
    "limit_that_counts_twice": "a place of a limit is below another one of it",
    "wrong_limit_count": "a limit's count is not the sum over its places",
    "unlisted_place": "limits or their places are counted wrongly",
    "wrong_part_of_the_room": "a user's part of the waiting room is not what its place says",
    "wrong_weight_of_the_waiting": "the weights of the users with waiting requests do not add up",
    "stranger_in_the_crowd": "the waiting room's heaps hold others than the users that wait",
    "second_outcome": "the ledger does not balance: a request has two outcomes, or none",
}

# act of the vandal -> what stumbles over it, in which file
ABORTS = {
    "wrong_heap_position": ("scheduler.cancel(1, handles['first'])", "heap.pyx"),
    "deadline_of_a_running_request": ("scheduler.submit(1, 0, 4, 1, 1, 1, 0, 2000, 0, 0)", "heap.pyx"),
    "wrong_leases": ("scheduler.finish(1, handles['runs'], 1, 1)", "nodes.pyx"),
}


def busy_scheduler() -> tuple[core.Scheduler, dict[str, int]]:
    """Pool 0: one node with one slot; user 1 runs and has two more, user 2 waits, user 3 is idle and in debt.
    Pool 1: one node with room, nobody, and a group. Pool 0 and the group share a limit. It is crowded: one of user 1's
    has given way. The handles of the requests by name."""
    limits = {"waiting_max": 3, "running_max": 8, "nodes_max": 4, "pools_max": 3, "groups_max": 1, "flows_max": 20}
    scheduler = core.Scheduler(**limits, limits_max=2, overflow=core.PUSH_OUT)
    nodes = [scheduler.add_node(0, slots) for slots in (1, 2)]
    limit = scheduler.add_limit(0, 5)
    for node, its_limit in zip(nodes, (limit, 0), strict=True):
        scheduler.set_node_pools(0, node, [scheduler.add_pool(0, 1, its_limit)])
        scheduler.set_node_state(0, node, core.UP)
    handles: dict[str, int] = {}
    scheduler.add_group(0, 1, 1, 0, limit)

    def submit(*names: str, user: int) -> None:
        for name in names:
            handles[name] = scheduler.submit(1, 0, user, 1, 1, 1, 10, 1000 + len(handles), 0, 0)

    submit("spent", user=3)
    assert scheduler.drain(1) == [(core.DISPATCHED, handles["spent"], nodes[0])]
    submit("runs", "first", "second", user=1)
    scheduler.finish(1, handles["spent"], core.COMPLETED, 50)
    assert scheduler.drain(1) == [(core.DISPATCHED, handles["runs"], nodes[0])]
    submit("third", user=1)
    submit("other", user=2)
    assert scheduler.drain(1) == [(core.PUSHED_OUT, handles["third"], 0)]
    return scheduler, handles


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the extension module ``vandal``."""
    pytest.importorskip("Cython", reason="the vandal is built here, with Cython")
    if shutil.which("gcc") is None or not (ROOT / "ext").exists():
        pytest.skip("needs gcc and the sources")
    made = tmp_path_factory.mktemp("vandal")
    includes = [f"-I{sysconfig.get_path('include')}", f"-I{ROOT / 'ext/include'}"]
    module = "vandal" + sysconfig.get_config_var("EXT_SUFFIX")
    plain = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}  # of a sanitizer
    for command in (
        [sys.executable, "-m", "cython", "-3", "-I", str(ROOT / "ext"), "-o", "vandal.c", str(HERE / "vandal.pyx")],
        ["gcc", "-shared", "-fPIC", "-O1", "-DFAIRLEAD_CHECKS=1", *includes, "vandal.c", "-o", module],
    ):
        run = subprocess.run(command, cwd=made, env=plain, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
    return made


@pytest.fixture(scope="module")
def vandal(folder: Path) -> ModuleType:
    path = next(folder.glob("vandal.*.so"))
    spec = importlib.util.spec_from_file_location("vandal", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("act", NOTICED)
def test_a_broken_rule_is_named(vandal: ModuleType, act: str) -> None:
    scheduler, _ = busy_scheduler()
    scheduler.check()
    getattr(vandal, act)(scheduler)
    with pytest.raises(AssertionError, match=f"^{re.escape(NOTICED[act])}$"):
        scheduler.check()


def test_a_broken_order_by_deadline_is_named(vandal: ModuleType) -> None:
    scheduler = core.Scheduler(waiting_max=2, running_max=1, within_user=core.DEADLINE)
    pool = scheduler.add_pool(0)
    for deadline in (9, 7):
        scheduler.submit(0, pool, 1, 1, 1, 1, 0, deadline, 0, 0)
    scheduler.check()
    vandal.earlier_deadline_behind(scheduler)
    with pytest.raises(AssertionError, match=r"^a user's requests are not in order$"):
        scheduler.check()


def test_a_heap_of_its_own_names_its_broken_rule_too(vandal: ModuleType) -> None:
    heap = IndexedHeap(3)
    for item in range(3):
        heap.push(item, item)
    heap.check()
    vandal.heap_on_its_head(heap)
    with pytest.raises(AssertionError, match=r"^a heap entry is smaller than its parent$"):
        heap.check()


def test_every_rule_is_broken_here() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "ext/fairlead/core").glob("*.pyx"))
    assert set(re.findall(r'return b"(.*)"$', sources, re.MULTILINE)) == set(NOTICED.values())


def run(folder: Path, *lines: str) -> subprocess.CompletedProcess[str]:
    code = ["import vandal", "from test_broken_rules import busy_scheduler", "scheduler, handles = busy_scheduler()"]
    code += [*lines, "print('alive')"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(HERE), *filter(None, sys.path)])}
    command = [sys.executable, "-c", "\n".join(code)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)


@pytest.mark.skipif(not checks_are_on(), reason="a release build has no checks; FAIRLEAD_BUILD=checked has")
@pytest.mark.parametrize("act", ABORTS)
def test_stumbling_over_a_broken_rule_aborts_with_file_and_line(folder: Path, act: str) -> None:
    stumble, file = ABORTS[act]
    whole = run(folder, stumble)
    assert (whole.returncode, whole.stdout) == (0, "alive\n"), whole.stderr
    broken = run(folder, f"vandal.{act}(scheduler)", stumble)
    assert (broken.returncode, broken.stdout) == (-signal.SIGABRT, ""), broken.stderr
    place = re.search(r"^(\S+\.pyx):(\d+): broken rule: ", broken.stderr, re.MULTILINE)
    assert place is not None, broken.stderr
    assert Path(place[1]).name == file
    assert "CHECK(" in (ROOT / "ext/fairlead/core" / file).read_text().splitlines()[int(place[2]) - 1]


def test_a_generation_begins_again_with_one(vandal: ModuleType) -> None:
    """Zero would make handles that are no handles (not > 0) in slot 0, and equal to "no node" for node 0."""
    scheduler = core.Scheduler(waiting_max=1, running_max=1, nodes_max=1, pools_max=1)
    pool = scheduler.add_pool(0)
    vandal.last_generations(scheduler)
    handles = []
    for _ in range(2):
        handles.append(scheduler.submit(0, pool, 1, 1, 1, 1, 0, core.NEVER, 0, 0))
        assert scheduler.cancel(0, handles[-1])
    assert handles == [0x7FFFFFFF << 32, 1 << 32]
    assert scheduler.add_node(0, 1) == 1 << 32
    assert not scheduler.cancel(0, handles[0])
    scheduler.check()
