"""What a guess at the length of answers does to others: the router's price list and the core, in virtual time."""

from __future__ import annotations

import heapq
import itertools
import random

import pytest

from fairlead.core import scheduler as core
from fairlead.inspection import Facts
from fairlead.policy import TokenPrices
from fairlead.usage import Habits

SECOND_NS = 1_000_000_000
CHAT = "/v1/chat/completions"
FLOOD, FLOODER, POLITE = 200, 1, 2


def longest_wait_s(slots: int, answer: int, requests: int) -> float:
    """Of a user who sends one request at a time beside one who has 200 waiting; each takes about a second."""
    random_s, order = random.Random(1), itertools.count()
    prices, habits = TokenPrices({"input": 1, "output": 2, "cached_input": 1}), Habits()
    scheduler = core.Scheduler(waiting_max=2 * FLOOD, running_max=slots)
    pool, node = scheduler.add_pool(0), scheduler.add_node(0, slots)
    scheduler.set_node_pools(0, node, [pool])
    scheduler.set_node_state(0, node, core.UP)
    under_way, ends, waits = {}, [], []

    def submit(now_ns: int, user: int) -> None:
        bill = prices.bill(user, Facts(CHAT, "m", True, 1, None, None, 100, 40))
        handle = scheduler.submit(now_ns, pool, user, 1, bill.estimate, 1, 0, core.NEVER, 0, 0)
        under_way[handle] = (user, bill, now_ns)
        drain(now_ns)

    def drain(now_ns: int) -> None:
        for _, handle, _ in scheduler.drain(now_ns):
            user, _, entered_ns = under_way[handle]
            if user == POLITE:
                waits.append(now_ns - entered_ns)
            heapq.heappush(ends, (now_ns + int(random_s.uniform(0.99, 1.01) * SECOND_NS), next(order), handle))

    for _ in range(FLOOD):
        submit(0, FLOODER)
    submit(0, POLITE)
    while len(waits) < requests:
        now_ns, _, handle = heapq.heappop(ends)
        user, bill, _ = under_way.pop(handle)
        bill.request_body(b'{"model":"m"}', habits)
        bill.on_head(200, True, False)
        bill.feed(b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n' * answer)
        scheduler.finish(now_ns, handle, core.COMPLETED, bill.settle(True))
        drain(now_ns)
        submit(now_ns, user)
    return max(waits) / SECOND_NS


@pytest.mark.parametrize("slots", [1, 4, 16])
@pytest.mark.parametrize("answer", [12, 300])
def test_nobody_waits_for_what_an_unknown_user_was_guessed_to_get(slots: int, answer: int) -> None:
    """A guess of 256 tokens made the polite user wait eleven service times beside answers of twelve tokens."""
    assert longest_wait_s(slots, answer, 100) <= 1.5
