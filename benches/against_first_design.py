"""The core against the design that it replaces, in turn in one run: python benches/against_first_design.py [--check]

Both do the same work on a queue that was filled before: random users, random deadlines, 8 nodes, one request comes
and one goes. The core also weighs, prices, bounds, leases and can take any request out again. Rounds of both
alternate, the least of each counts (these are times: everything else that runs on the machine only adds), and what
matters is the ratio. Where there is no rustc, the figures recorded on one machine of two 2.6 GHz cores (AMD EPYC,
2026-11) are shown, as such.

--check ends with 1 if a ratio is over its limit.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

import native_build
from fairlead.core import scheduler as core

ROUNDS = 7
RECORDED_NS = {"phases 100": 301.0, "phases 10000": 502.0, "pop": 146.0, "choose 64": 316.0, "choose 1000": 4800.0}


def rust(program: object, case: str) -> float | None:
    if program is None:
        return RECORDED_NS.get(case)
    answer = subprocess.run([str(program), *case.split(), "1"], check=True, capture_output=True, text=True)
    return float(answer.stdout)


def python_cycle(users: int, waiting: int, count: int) -> float:
    """The same triple as core_loop's ``cycle``, from Python: ns for each."""
    scheduler = core.Scheduler(waiting_max=waiting + 1, running_max=32)
    pool = scheduler.add_pool(0)
    for _ in range(8):
        node = scheduler.add_node(0, 4)
        scheduler.set_node_pools(0, node, [pool])
        scheduler.set_node_state(0, node, core.UP)
    submit, drain, finish = scheduler.submit, scheduler.drain, scheduler.finish
    running: list[int] = []
    for i in range(waiting + 32):
        submit(0, pool, i * 7919 % users, 1, 1, 1, 0, 1 << 60, 0, 0)
        running += [handle for _, handle, _ in drain(0)]
    oldest = 0
    start = time.perf_counter_ns()
    for i in range(count):
        submit(0, pool, i * 7919 % users, 1, 1, 1, 0, 1 << 60, 0, 0)
        finish(0, running[oldest], 1, 1)
        running[oldest] = drain(0)[0][1]
        oldest = (oldest + 1) % 32
    return (time.perf_counter_ns() - start) / count


def measure() -> list[tuple[str, float, str, float | None, float]]:
    """(what, ns, against what, its ns, limit of the ratio)"""
    loop = native_build.core_loop().Loop
    program = native_build.mutex_design()
    rows = []
    cycles: dict[tuple[int, int], float] = {}
    for users, waiting, limit in ((100, 100_000, 1.0), (10_000, 100_000, 0.8)):
        case = f"cycle {users} {waiting}" if program else f"phases {users}"
        ours, theirs = [], []
        for _ in range(ROUNDS):
            ours.append(loop(users=users, waiting=waiting).cycle(100_000))
            theirs.append(rust(program, case))
        cycles[users, waiting] = min(ours)
        what = f"submit + dispatch + finish, {users:,} users, {waiting:,} waiting"
        rows.append((what, min(ours), "enqueue + dequeue + heap push + pop", least(theirs), limit))
    ours, theirs = [], []
    for _ in range(ROUNDS):
        ours.append(loop(users=100, waiting=200_000).cancel(200_000))
        theirs.append(rust(program, "pop"))
    rows.append(("cancel anywhere, 200,000 waiting", min(ours), "heap pop, 200,000", least(theirs), 1.0))
    for nodes in (64, 1000):
        ours, theirs = [], []
        for _ in range(ROUNDS):
            busy = loop(users=10, waiting=100, nodes=nodes)
            busy.release_all()
            ours.append(busy.choose(100_000))
            theirs.append(rust(program, f"choose {nodes}"))
        rows.append((f"node choice + lease + release, {nodes:,} nodes", min(ours), "scan", least(theirs), 0.25))
    ours = [python_cycle(100, 1000, 50_000) for _ in range(ROUNDS)]
    small = min(loop(users=100, waiting=1000).cycle(100_000) for _ in range(ROUNDS))
    rows.append(("submit, drain, finish from Python, 100 users, 1,000 waiting", min(ours), "C loop", small, 3.0))
    return rows


def least(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return min(known) if known else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="end with 1 if a ratio is over its limit")
    check = parser.parse_args().check
    over = 0
    recorded = "" if native_build.mutex_design() else " (recorded: no rustc here)"
    print(f"| core | ns | first design{recorded} | ns | ratio | limit |\n|---|---:|---|---:|---:|---:|")
    for what, ns, other, other_ns, limit in measure():
        ratio = ns / other_ns if other_ns else float("nan")
        over += ratio > limit
        print(f"| {what} | {ns:.0f} | {other} | {other_ns or 0:.0f} | {ratio:.2f} | <= {limit:.2f} |")
    return 1 if check and over else 0


if __name__ == "__main__":
    sys.exit(main())
