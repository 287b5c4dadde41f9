"""fairlead and its peers side by side: python benches/side_by_side/run.py [--peers-venv PEERS]

The same work goes directly to a simulated node and through each router that is installed, in turns, the router on one
core, node and generator on another. It prints Markdown, and writes results.json, results.md and (with matplotlib)
results.png into --out, beside each router's configuration and log. Takes
about 20 s per router and round, and 20 s per router for memory.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

import peers

from fairlead import bench_machine, bench_report, bench_run, bench_turns
from fairlead.bench import BenchError

OUT = Path(__file__).resolve().parent / "results"


def arguments(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--routers", default=",".join(peers.ALL), metavar="LIST", help="in this order [all of them]")
    parser.add_argument("--peers-venv", type=Path, metavar="FOLDER", help="where the peers from PyPI are [PATH]")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="[3]")
    parser.add_argument("--seconds", type=float, default=2.0, metavar="S", help="of a turn [2]")
    parser.add_argument("--streams", default="1000,10000", metavar="LIST", help="held for memory [1000,10000]")
    parser.add_argument("--cores", default="", metavar="A,B", help="the router's and the load's [the first two]")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FOLDER", help="[results, beside this file]")
    found = parser.parse_args(given)
    try:
        found.streams = tuple(int(each) for each in found.streams.split(",") if each)
        found.cores = [int(each) for each in found.cores.split(",") if each] or bench_machine.cores()[:2]
    except ValueError as error:
        parser.error(f"--streams and --cores are lists of numbers: {error}")
    found.routers = [each for each in found.routers.split(",") if each]
    for name in found.routers:
        if name not in peers.ALL:
            parser.error(f"--routers: there is no {name!r}: choose of {', '.join(peers.ALL)}")
    if len(set(found.cores)) != 2 or not set(found.cores) <= set(bench_machine.cores()):
        parser.error(f"--cores: {found.cores}: choose two of {bench_machine.cores()}")
    if not (found.rounds > 0 and 0 < found.seconds < 3600 and all(each > 0 for each in found.streams)):
        parser.error("--rounds, --seconds and --streams must be positive")
    return found


def main(given: list[str]) -> int:
    options = arguments(given)
    routers = []
    for router in peers.find(options.routers, options.peers_venv):
        if isinstance(router, peers.Missing):
            print(f"{router.name} is not installed: {router.remedy}", file=sys.stderr)
        else:
            routers.append(router)
    settings = bench_turns.Settings(
        rounds=options.rounds,
        seconds=options.seconds,
        streams=options.streams,
        router_core=options.cores[0],
        load_core=options.cores[1],
        directory=options.out,
    )
    try:
        document = bench_turns.compare(
            routers, settings, lambda line: print(f"... {line}", file=sys.stderr, flush=True)
        )
    except BenchError as error:
        sys.exit(f"side_by_side: {error}")
    text = bench_report.markdown(document)
    print(text)
    (options.out / "results.md").write_text(text)
    bench_run.write(str(options.out / "results.json"), document)
    if importlib.util.find_spec("matplotlib") is not None and bench_report.served(document):
        bench_report.plot(options.out / "results.png", document)
    return bench_run.exit_code(document)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
