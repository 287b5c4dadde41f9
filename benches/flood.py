"""Fair shares over HTTP, at full length: python benches/flood.py [--polite 150] [--requests 4000]

A router and a simulated node with four slots for each case, all in one process on loopback. First, under every policy
at once, one user has 200 requests outstanding and another sends its own one at a time: how long does that one wait for
the first byte? Then two users who both always have requests waiting: what does a weight of three give, and what does
one get who leaves each stream just before its end? Tokens are counted by the node.

Ends with 1 if something is not as it is promised. The tests do the same, shorter (tests/http/test_router_fairness.py).
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import uvloop

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests/http"))
from crowd import FLOOD, Flooded, beside_a_flood, mixed, nearest_rank, outstanding, race, started_since
from rig import chat_body, routed

from fairlead.mocknode import MockSettings

TOKENS = 11  # after the first
BODY = chat_body("x" * 40, stream=True)
FIFO_SHARE = 50  # under fifo a polite request takes as long as about so many others


async def flood(policy: str, service_ms: int, polite: int) -> tuple[str, Flooded]:
    first_ms = service_ms / (TOKENS + 1)
    node = MockSettings(
        name="one", slots=4, ttft_ms=first_ms, token_ms=(service_ms - first_ms) / TOKENS, batch_ms=0, tokens=TOKENS + 1
    )
    async with routed([node], queue={"policy": policy, "timeout": "10m"}) as rig:
        return policy, await beside_a_flood(rig, BODY, polite, FLOOD * service_ms / 1000)


async def floods(service_ms: int, polite: int) -> bool:
    """Whether the polite user waited as promised under every policy."""
    counts = {"fifo": max(1, polite // FIFO_SHARE), "round_robin": polite, "wfq": polite, "token_wfq": polite}
    print(f"{FLOOD} requests of one user always outstanding, four slots, one request takes {service_ms} ms.")
    print("Time to first byte of a user who sends one at a time, in ms; p99 by nearest rank:\n")
    print(f"{'':<14}{'requests':>9}{'alone':>8}{'p50':>8}{'p99':>8}{'largest':>9}{'alone + 1.5 services':>22}")
    kept = True
    for policy, seen in await asyncio.gather(*(flood(name, service_ms, count) for name, count in counts.items())):
        numbers = [nearest_rank(seen.first_byte, 0.5), seen.p99, max(seen.first_byte)]
        row = "".join(f"{1000 * value:>{width}.0f}" for value, width in zip(numbers, (8, 8, 9), strict=True))
        print(f"{policy:<14}{len(seen.first_byte):>9}{1000 * seen.alone:>8.0f}{row}{1000 * seen.bound:>22.0f}")
        kept &= (seen.p99 <= seen.bound) is (policy != "fifo")
    return kept


async def shares(requests: int) -> bool:
    quick = MockSettings(name="one", slots=4, ttft_ms=1, token_ms=1, batch_ms=0)
    queue = {"policy": "token_wfq", "prices": {"input": 1, "output": 1}}
    async with routed([quick], queue=queue, users={"heavy": {"weight": 3}}) as rig, AsyncExitStack() as stack:
        await stack.enter_async_context(outstanding(12, mixed(rig, "heavy", (10, 30), (5, 25))))
        await stack.enter_async_context(outstanding(12, mixed(rig, "light", (10, 30), (30, 60))))
        got = await started_since(rig, 50, requests)
    ratio = got["heavy"] / got["light"]
    print(f"\ntoken_wfq, {requests} requests. Weights 3 and 1: {got['heavy']} and {got['light']} tokens, {ratio:.3f}.")
    kept = abs(ratio / 3 - 1) <= 0.05
    for kind, node, asked in (
        ("usage at the end of a stream", quick, True),
        ("never any usage", quick, False),
        ("four tokens in an event", replace(quick, per_event=4), True),
    ):
        async with routed([node], entry={"include_usage": asked}, queue={"policy": "token_wfq"}) as rig:
            got = await race(rig, 100, 100 // node.per_event, requests)
        ratio = got["leaver"] / got["honest"]
        print(f"One leaves one event early, {kind}: {ratio:.3f} of the other's tokens.")
        kept &= abs(ratio - 1) <= 0.05
    return kept


async def run(service_ms: int, polite: int, requests: int) -> bool:
    waited = await floods(service_ms, polite)
    return await shares(requests) and waited


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--service-ms", type=int, default=500, help="what one request takes, at least 100 [500]")
    parser.add_argument("--polite", type=int, default=150, help="requests of the polite user [150]")
    parser.add_argument("--requests", type=int, default=4000, help="requests by which shares are measured [4000]")
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return 0 if runner.run(run(options.service_ms, options.polite, options.requests)) else 1


if __name__ == "__main__":
    sys.exit(main())
