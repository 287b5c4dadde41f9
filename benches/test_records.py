"""What a request pays for being looked at, for reading: python -m pytest benches/test_records.py --benchmark-only

In rounds of 500, so that the clock costs nothing; on a busy machine the minimum says most.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from fairlead.clock import SECOND_NS
from fairlead.inspection import Facts
from fairlead.lines import Lines
from fairlead.policy import Reading
from fairlead.records import RequestLog
from fairlead.users import USERS_MAX, Users

REQUEST_ID = "0123456789abcdef0123456789abcdef"
PATH = "/v1/chat/completions"


def call(user: int = 1) -> Any:
    """A call that was served, with all that is read of one."""
    facts = Facts(PATH, "llama-3.1-8b-instruct", True, 1, 256, None, 2000, 1600)
    bill = Reading(facts)
    bill.input, bill.cached, bill.output, bill.by = 400, 0, 123, "usage"
    return SimpleNamespace(
        outgoing=SimpleNamespace(request_id=REQUEST_ID, path=PATH, model=facts.model, stream=True),
        node=SimpleNamespace(name="gpu-a"),
        bill=bill,
        error=None,
        tally=None,
        flow=None,
        user=user,
        user_name=f"user-{user}",
        pool=0,
        place=0,
        tier=1,
        team=None,
        weight=1,
        width=1,
        cost=1,
        running_max=0,
        requeues=0,
        position=3,
        status=200,
        waited_ns=12_345_678,
        entered_ns=1_000_000,
        queued_ns=1_000_000,
        dispatched_ns=13_345_678,
        connected_ns=13_745_678,
        first_byte_ns=98_765_432,
    )


def many(benchmark: Any, one: Callable[[], object]) -> None:
    benchmark.pedantic(one, rounds=100, iterations=500, warmup_rounds=1)


@pytest.fixture
def log() -> Iterator[RequestLog]:
    log = RequestLog("/dev/null", 1)
    log.open()
    yield log
    assert log._lines is not None
    log._lines._closing.set()
    log._lines._wake.set()
    log._lines._thread.join()


def test_one_record(benchmark: Any, log: RequestLog) -> None:
    """Made, buffered, and written by the thread, which runs beside."""
    ended = call()
    ended.tally = object()
    many(benchmark, lambda: log.ended(ended, "completed", 1, 1_234_567_890))


def test_one_line_into_the_buffer(benchmark: Any) -> None:
    lines = Lines("bench", os.open("/dev/null", os.O_WRONLY))
    many(benchmark, lambda: lines.write(b"x" * 499 + b"\n"))


@pytest.mark.parametrize("users", [1, 100, USERS_MAX, 2 * USERS_MAX])
def test_the_figures_of_one_request(benchmark: Any, users: int) -> None:
    """It enters, is dispatched and ends; with more users than fit, each one falls out before it comes again."""
    table, calls = Users(), [call(user) for user in range(users)]
    state = {"i": 0}

    def one() -> None:
        state["i"] += 1
        which, now_ns = calls[state["i"] % users], state["i"] * 1_000_000
        table.entered(which, now_ns)
        table.dispatched(which, now_ns)
        table.ended(which, "completed", 1, now_ns)

    many(benchmark, one)


@pytest.mark.parametrize("users", [100, USERS_MAX])
def test_a_look_at_all_users(benchmark: Any, users: int) -> None:
    """What a scrape costs when all of them were served and wait in each piece of the window."""
    table = Users()
    for second in range(60):
        for user in range(users):
            which = call(user)
            table.entered(which, second * SECOND_NS)
            if second < 59:
                table.dispatched(which, second * SECOND_NS)
                table.ended(which, "completed", 1, second * SECOND_NS)
    benchmark(lambda: asyncio.run(table.standings(60 * SECOND_NS, [0])))
