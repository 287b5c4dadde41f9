"""One lane and a client that does not read, or takes its time."""

from __future__ import annotations

import pytest
from lone_lane import GET, OFFERED, POST, SECOND_NS, LoneLane

from fairlead.errors import ApiError

# A client that does not read -------------------------------------------------------------------------


@pytest.mark.parametrize("request_", [POST, GET], ids=["lane", "aiohttp"])
def test_who_takes_no_answers_is_not_answered_nor_read_any_more(request_: bytes) -> None:
    lane = LoneLane()
    lane.feed(request_)
    lane.stuff()
    lane.feed(request_ * 5)
    assert len(lane.seen) == 1
    assert not lane.plug.reading
    lane.take()
    assert len(lane.seen) == 6
    assert lane.plug.reading


def test_aiohttp_is_told_to_go_on_only_if_it_was_told_to_wait() -> None:
    """It asserts that; and a writer of its own that was not told would wait for ever."""
    lane = LoneLane(answering=False)
    lane.feed(GET)
    assert lane.inner is not None
    lane.stuff()
    lane.answer_inner()
    lane.feed(POST)
    lane.take()
    lane.stuff()
    lane.lane.fail(ApiError("queue_full", "no"))
    lane.take()
    assert lane.inner.told == ["pause", "resume"]
    assert lane.waiting[0].told == ["pause"]


def test_a_standstill_is_counted_from_the_last_that_was_taken() -> None:
    lane = LoneLane(answering=False)
    lane.feed(POST)
    lane.stuff(90_000)
    for second, left in ((3, 80_000), (6, 70_000), (9, 60_000), (12, 60_000), (18, 60_000)):
        lane.plug.buffered, lane.now_ns = left, second * SECOND_NS
        lane.lane.on_alarm(lane.now_ns)
        assert lane.plug.ended == ""
    lane.now_ns = 19 * SECOND_NS
    lane.lane.on_alarm(lane.now_ns)
    assert lane.plug.ended == "abort"


def test_a_call_that_begins_before_a_full_buffer_waits() -> None:
    lane = LoneLane(answering=False)
    lane.feed(POST[:-1])
    lane.stuff()
    lane.feed(POST[-1:])
    assert lane.waiting[0].told == ["pause"]
    lane.take()
    assert lane.waiting[0].told == ["pause", "resume"]


def test_aiohttp_stops_the_reading_of_its_own_requests_only() -> None:
    """Who waits in the queue must be read."""
    lane = LoneLane(answering=False)
    lane.feed(OFFERED + b"x" * 50)
    assert lane.inner is not None
    lane.inner.transport.pause_reading()
    assert not lane.plug.reading
    lane.lane.data_received(b"x" * 50)  # it was on its way
    assert lane.plug.reading
    lane.inner.transport.pause_reading()
    assert lane.plug.reading
    lane.answer_inner()
    lane.feed(OFFERED)
    lane.inner.transport.pause_reading()
    lane.answer_inner(keep=False)
    assert lane.plug.ended == "eof" and lane.plug.reading, "what comes is read for a moment"


@pytest.mark.parametrize("stalls", [True, False])
def test_the_last_answer_is_cut_only_if_nothing_of_it_is_taken(stalls: bool) -> None:
    """The end of what a client sends is waited for a second only, the end of what it reads as long as it reads."""
    lane = LoneLane()
    lane.feed(POST)
    lane.stuff(90_000)
    lane.feed(b"garbage")
    taken_ = [90_000 - (0 if stalls else 10_000) * step for step in range(1, 10)]
    lane.lane.resume_writing()
    lane.plug.buffered = 90_000
    lane.settle()
    assert lane.refused == ["bad_request"] and lane.plug.ended == "eof"
    for step, left in enumerate(taken_):
        lane.plug.buffered = left
        lane.now_ns = (step + 1) * 3 * SECOND_NS
        assert lane.lane.on_alarm(lane.now_ns) >= lane.now_ns + SECOND_NS
        if stalls and step >= 3:  # 12 s of 10
            assert lane.plug.ended == "abort"
            return
        assert lane.plug.ended == "eof"
    lane.plug.buffered = 0
    for _ in range(2):
        lane.now_ns += 3 * SECOND_NS
        lane.lane.on_alarm(lane.now_ns)
    assert lane.plug.ended == "abort"


# Time ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [[b"\r\n"], [b"\r", b"\n"]], ids=["whole", "halves"])
def test_blank_lines_do_not_keep_an_idle_connection(pieces: list[bytes]) -> None:
    lane = LoneLane(keep_alive_ns=60 * SECOND_NS)
    lane.feed(POST)
    for second in range(1, 80):
        lane.now_ns = second * SECOND_NS
        lane.feed(*pieces)
        lane.lane.on_alarm(lane.now_ns)
        if lane.plug.ended:
            break
    assert (second, lane.plug.ended, lane.refused) == (60, "close", [])


def test_an_answer_brings_the_time_of_an_idle_connection_forward() -> None:
    lane = LoneLane(answering=False, head_ns=100 * SECOND_NS)
    lane.feed(POST)
    assert min(lane.alarms) == 100 * SECOND_NS
    lane.lane.fail(ApiError("queue_full", "no"))
    assert min(lane.alarms) <= 10 * SECOND_NS


@pytest.mark.parametrize("before", [b"", POST, POST + b"\r"], ids=["nothing", "a request", "half a blank line"])
def test_a_head_has_its_time_from_its_first_byte(before: bytes) -> None:
    lane = LoneLane(keep_alive_ns=60 * SECOND_NS)
    if before:
        lane.feed(before)
    lane.now_ns = 9 * SECOND_NS
    rest = b"\n" * before.endswith(b"\r")
    for byte in POST[:20]:
        lane.feed(rest + bytes([byte]))
        rest = b""
        lane.lane.on_alarm(lane.now_ns)
        if lane.plug.ended:
            break
        lane.now_ns += SECOND_NS
    assert (lane.now_ns, lane.refused) == (19 * SECOND_NS, ["request_timeout"])
