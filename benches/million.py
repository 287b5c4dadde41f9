"""How long the simulator takes: python benches/million.py [--requests 1000000] [--users 1000] [--profile]

A mix of that many users in which one in a hundred sends a hundred times as much as the others, on nodes that are too
few for it: most requests wait, and the queue grows long. Each policy in turn, in this one process: seconds of CPU, and
the process's largest memory so far. --profile shows where the time of token_wfq goes.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import resource
import time

from fairlead.config_schema import POLICIES
from fairlead.mixes import Source, synthetic
from fairlead.simulate import Settings, simulate
from fairlead.simulate_report import document

SPAN_S = 3600.0
CASES = (
    ("fixed time for a token", Settings(nodes=10, slots=100)),
    ("nodes that slow down and fail", Settings(nodes=10, slots=100, batch_slope=0.001, ttft_ms=200, mtbf_s=600)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    sizes = [100.0 if user % 100 == 0 else 1.0 for user in range(options.users)]
    unit = options.requests / SPAN_S / sum(sizes)
    sources = [Source(f"u{user}", size * unit, 200, 200, spread_lengths=True) for user, size in enumerate(sizes)]
    begun = time.process_time()
    trace = synthetic(sources, SPAN_S)
    print(f"{len(trace)} requests of {len(trace.users)} users drawn in {time.process_time() - begun:.1f} s")
    for title, settings in CASES:
        for policy in POLICIES:
            begun = time.process_time()
            result = simulate(trace, settings, policy)
            simulated = time.process_time()
            document(trace, [result])
            ended = time.process_time()
            megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            print(f"{title}, {policy}: {simulated - begun:.1f} s, report {ended - simulated:.1f} s, {megabytes} MB")
    if options.profile:
        with cProfile.Profile() as profile:
            simulate(trace, CASES[0][1], "token_wfq")
        pstats.Stats(profile).sort_stats("tottime").print_stats(15)


if __name__ == "__main__":
    main()
