"""Instructions per operation, counted by callgrind: the same number on a busy machine as on an idle one.

  python benches/instructions.py             print the counts
  python benches/instructions.py --check     end with 1 if one is over its budget in budgets.toml (CI does this)
  python benches/instructions.py --slope     how the cost grows from 10 to 1,000,000 waiting requests
  python benches/instructions.py --update    write today's counts into budgets.toml

First the core's operations, then what ``fairlead serve`` does for a request and for a chunk (lane_instructions.py).
Of the core, a count is the difference of two runs that differ only in how often they do the operation, divided by the
difference: start and filling cancel out. Instructions do not see cache misses; times are in
against_first_design.py. Needs valgrind.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from math import log
from pathlib import Path

import lane_instructions
import native_build

BUDGETS = Path(__file__).with_name("budgets.toml")
TOLERANCE = 1.02  # compilers of one minor version differ by less
LANE_TOLERANCE = 1.1  # what comes in one read, and when, is the kernel's to say
FEW, MANY = 1_000, 11_000

# name -> (users, waiting, what is done)
CASES = {
    "cycle_100_users": (100, 1_000, "cycle"),
    "cycle_10000_users": (10_000, 100_000, "cycle"),
    "tokens_100_users": (100, 1_000, "tokens"),
    "tiers_100_users": (100, 1_000, "tiers"),
    "teams_100_users": (100, 1_000, "teams"),
    "limits_100_users": (100, 1_000, "limits"),
    "cancel_100000_waiting": (10_000, 100_000, "cancel"),
    "choose_64_nodes": (10, 100, "choose"),
    "python_cycle_100_users": (100, 1_000, "python"),
}
# What token costs, tiers or teams may cost more than plain weighted fair queueing, and a queue than none.
RATIOS = (
    ("tokens_100_users", "cycle_100_users", 1.3),
    ("tiers_100_users", "cycle_100_users", 1.3),
    ("teams_100_users", "cycle_100_users", 1.3),
    ("request_queue", "request_plain", 1.15),
)
SLOPE = (10, 100, 1_000, 10_000, 100_000, 1_000_000)


def child(kind: str, users: int, waiting: int, count: int) -> None:
    """The run that valgrind watches."""
    if kind == "python":
        import against_first_design

        against_first_design.python_cycle(users, waiting, count)
        return
    shape, kind = (kind, "cycle") if kind in ("tokens", "tiers", "teams", "limits") else ("plain", kind)
    nodes = 64 if kind == "choose" else 8
    loop = native_build.load_core_loop().Loop(users=users, waiting=waiting, nodes=nodes, shape=shape)
    if kind == "choose":
        loop.release_all()
    getattr(loop, kind)(count)


def instructions(kind: str, users: int, waiting: int, count: int) -> int:
    python = os.path.realpath(sys.executable)  # not a wrapper script, which valgrind would watch instead
    command = ["setarch", "-R", "valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", python]
    command += [str(Path(__file__).resolve()), "--child", kind, str(users), str(waiting), str(count)]
    environment = os.environ | {"PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    run = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    if run.returncode != 0:
        sys.exit(f"instructions.py: the run under valgrind failed:\n{run.stderr}")
    return int(run.stderr.rsplit("Collected :", 1)[1].split()[0])


def per_operation(kind: str, users: int, waiting: int) -> float:
    few = min(FEW, max(1, waiting // 10)) if kind == "cancel" else FEW
    many = min(MANY, waiting) if kind == "cancel" else MANY
    more, less = instructions(kind, users, waiting, many), instructions(kind, users, waiting, few)
    return (more - less) / (many - few)


def measured() -> Iterator[tuple[str, float, float]]:
    """Operation, instructions, and what it may be of its budget."""
    for name, (users, waiting, kind) in CASES.items():
        yield name, per_operation(kind, users, waiting), TOLERANCE
    with tempfile.TemporaryDirectory() as directory:
        for name, count in lane_instructions.counts(Path(directory)):
            yield name, count, LANE_TOLERANCE


def slope() -> None:
    print("| waiting | users | submit + dispatch + finish | cancel |\n|---:|---:|---:|---:|")
    first = last = 0.0
    for waiting in SLOPE:
        users = max(2, waiting // 10)
        cycle = per_operation("cycle", users, waiting)
        # Too few to cancel tell more about the interpreter's start than about the core.
        cancel = f"{per_operation('cancel', users, waiting):.0f}" if waiting >= 1_000 else "-"
        first, last = first or cycle, cycle
        print(f"| {waiting:,} | {users:,} | {cycle:.0f} | {cancel} |", flush=True)
    steps = log(SLOPE[-1] / SLOPE[0], 4)
    print(f"\n{(last - first) / steps:.0f} instructions more for every fourfold queue.")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="end with 1 if a count is over its budget")
    parser.add_argument("--slope", action="store_true", help="grow the queue from 10 to 1,000,000")
    parser.add_argument("--update", action="store_true", help="write today's counts into budgets.toml")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        kind, *numbers = arguments.child
        child(kind, *map(int, numbers))
        return 0
    if shutil.which("valgrind") is None:
        sys.exit("instructions.py: valgrind is not installed")
    native_build.build_core_loop()
    if arguments.slope:
        slope()
        return 0
    budgets = tomllib.loads(BUDGETS.read_text())["instructions"] if BUDGETS.exists() else {}
    counts, over = {}, 0
    print("| operation | instructions | budget |\n|---|---:|---:|")
    for name, count, tolerance in measured():
        counts[name] = round(count)
        budget = budgets.get(name, 0)
        over += counts[name] > budget * tolerance
        print(f"| {name} | {counts[name]:,} | {budget:,} |", flush=True)
    print()
    for name, base, most in RATIOS:
        ratio = counts[name] / counts[base]
        over += ratio > most
        print(f"{name}: {ratio:.2f}x {base} (at most {most})")
    if arguments.update:
        lines = [f"{name} = {count}" for name, count in counts.items()]
        head = "# Instructions per operation; python benches/instructions.py --update writes this, --check compares.\n"
        BUDGETS.write_text(head + "[instructions]\n" + "\n".join(lines) + "\n")
        return 0
    if over:
        print(f"{over} over budget", file=sys.stderr)
    return 1 if arguments.check and over else 0


if __name__ == "__main__":
    sys.exit(main())
