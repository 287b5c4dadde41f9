"""One lane and what may come over it, in every order: it answers or ends, tells everybody once, and costs no more than
its bytes."""

from __future__ import annotations

import gc
import sys
import time
import tracemalloc
from collections.abc import Callable

import pytest
from lone_lane import GET, HEAD, INNER_ANSWER, OFFERED, POST, SECOND_NS, LoneLane

from fairlead.errors import ApiError

CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
BIG = 1 << 20
ANSWER = b"Content-Length: 2\r\n"


def head_of(lane: LoneLane, at: int = 0) -> bytes:
    return bytes(lane.plug.written[at:]).partition(b"\r\n\r\n")[0]


# What it costs ---------------------------------------------------------------------------------------


def seconds(stream: bytes, size: int) -> float:
    lane = LoneLane(answering=False, body_max=1 << 30)
    lane.feed(POST[:10])
    lane.feed(POST[10:])
    lane.lane.fail(ApiError("queue_full", "no"))
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    begun = time.process_time()
    lane.feed(*pieces)
    spent = time.process_time() - begun
    assert len(lane.seen) == 2 and lane.end == "more"
    return spent


@pytest.mark.parametrize("size", [1 << 18, 1461])
@pytest.mark.parametrize(
    "body",
    [
        b"%x\r\n%b\r\n0\r\n\r\n" % (BIG, b"\r\n" * (BIG // 2)),
        b"1\r\n\n\r\n" * (BIG // 6) + b"0\r\n\r\n",
        b"2\r\n\r\n\r\n" * (BIG // 7) + b"0\r\n\r\n",
        b"1;a=b;c\r\nx\r\n" * (BIG // 12) + b"0\r\n\r\n",
        b"%0*x\r\nx\r\n" % (15, 1) * (BIG // 20) + b"0\r\n\r\n",
    ],
    ids=["line ends", "1 byte chunks", "2 byte chunks", "extensions", "zeros"],
)
def test_a_body_in_chunks_costs_what_its_bytes_cost(body: bytes, size: int) -> None:
    """Fed to llhttp up to wherever it might end, one of line ends took a thousand times as long."""
    plain = min(seconds(HEAD + b"Content-Length: %d\r\n\r\n" % BIG + b"x" * BIG, size) for _ in range(3))
    assert min(seconds(CHUNKED + body, size) for _ in range(3)) < max(100 * plain, 0.3)


def test_a_body_of_many_pieces_takes_no_more_memory_than_it_has_bytes() -> None:
    lane = LoneLane(answering=False, body_max=BIG)
    lane.feed(HEAD + b"Content-Length: %d\r\n\r\n" % BIG)
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(BIG // 4):
        lane.lane.data_received(bytes(2))
    assert sys.getallocatedblocks() - before < 1000
    lane.feed(b"x" * (BIG // 2))
    assert lane.seen[0].body == bytes(BIG // 2) + b"x" * (BIG // 2)


def test_a_body_is_not_kept_by_a_connection_that_is_idle() -> None:
    lane = LoneLane()
    body = b"x" * 50_000
    lane.feed(HEAD + b"Content-Length: 50000\r\n\r\n" + body)
    (seen,) = lane.seen
    # The test's own name, the attribute, and the argument.
    assert sys.getrefcount(seen.body) <= 3


def test_what_is_sent_behind_a_request_is_kept_only_so_far() -> None:
    lane = LoneLane(answering=False)
    lane.feed(POST)
    tracemalloc.start()
    try:
        for _ in range(1000):
            lane.lane.data_received(bytes(10_000))
        assert tracemalloc.get_traced_memory()[0] < 200_000
    finally:
        tracemalloc.stop()
    lane.lane.fail(ApiError("queue_full", "no"))
    assert b"\r\nConnection: close\r\n" in lane.plug.written and lane.plug.ended == "eof"


def test_requests_that_come_in_one_read_are_not_all_answered_in_one_turn() -> None:
    lane = LoneLane()
    lane.lane.data_received(POST * 1000)
    assert len(lane.seen) <= 32
    assert not lane.plug.reading
    lane.settle()
    assert len(lane.seen) == 1000
    assert lane.plug.reading


# Chunks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chunks", "body"),
    [
        (b"2\r\n{}\r\n0\r\n\r\n", b"{}"),
        (b"1\r\n{\r\n01\r\n}\r\n00\r\n\r\n", b"{}"),
        (b"a\r\n0\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n0\r\n\r\n"),
        (b"F\r\n" + b"x" * 15 + b"\r\n0\r\n\r\n", b"x" * 15),
        (b"2;a\r\n{}\r\n0;a=b;c\r\n\r\n", b"{}"),
        (b"2;" + b"a" * 254 + b"\r\n{}\r\n0\r\n\r\n", b"{}"),
        (b"2;" + b"a" * 255 + b"\r\n{}\r\n0\r\n\r\n", None),
        (b"000000000000002\r\n{}\r\n0\r\n\r\n", b"{}"),
        (b"0000000000000002\r\n{}\r\n0\r\n\r\n", None),
        (b"2\r\n{}\r\n\r\n0\r\n\r\n", None),
        (b"2\r\n{}\r\n;a\r\nx\r\n0\r\n\r\n", None),
        (b"2;a=b=c\r\n{}\r\n0\r\n\r\n", None),
        (b"2;a=\r\n{}\r\n0\r\n\r\n", None),
        (b"2;\r\n{}\r\n0\r\n\r\n", None),
        (b"2=a\r\n{}\r\n0\r\n\r\n", None),
        (b"2\r\n{}\r\n0\r\nX: y\r\n\r\n", None),
        (b"2\r\n{}\r\n0\r\n\rX", None),
        (b"2\r\n{}\rX", None),
        (b"2\rX", None),
    ],
)
@pytest.mark.parametrize("target", [b"/v1/chat/completions", b"/other"])
def test_chunks_are_a_body_or_none(chunks: bytes, body: bytes | None, target: bytes) -> None:
    """And the next request is read where the body has ended, however it was cut."""
    stream = CHUNKED.replace(b"/v1/chat/completions", target) + chunks + POST
    for size in (1, 2, 3, 5, len(stream)):
        lane = LoneLane()
        lane.feed(*(stream[at : at + size] for at in range(0, len(stream), size)))
        if body is None:
            assert (lane.read, lane.end) == ([], "bad_request")
        else:
            assert [seen.body for seen in lane.read] == [body, b"{}"] and lane.end == "more"


# Small print -----------------------------------------------------------------------------------------


def test_an_error_does_not_borrow_the_id_of_the_request_before() -> None:
    lane = LoneLane()
    lane.feed(POST.replace(b"Host: x", b"Host: x\r\nX-Request-Id: first"))
    assert b"X-Request-Id: first\r\n" in lane.plug.written
    end = len(lane.plug.written)
    lane.feed(b"garbage\r\n\r\n")
    assert lane.refused == ["bad_request"]
    assert b"X-Request-Id: " in head_of(lane, end) and b"first" not in head_of(lane, end)


@pytest.mark.parametrize(("version", "told"), [(b"1.1", b"HTTP/1.1 100 Continue\r\n\r\n"), (b"1.0", b"")])
def test_who_speaks_http_1_0_knows_no_100(version: bytes, told: bytes) -> None:
    lane = LoneLane(answering=False)
    lane.feed(HEAD.replace(b"1.1", version) + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert lane.plug.written == told
    lane.feed(b"{}")
    assert len(lane.seen) == 1


def test_a_complete_answer_of_aiohttps_is_not_taken_back_by_a_broken_body() -> None:
    lane = LoneLane(answering=False)
    lane.feed(GET[:-2] + b"Transfer-Encoding: chunked\r\n\r\n")
    assert lane.inner is not None
    lane.inner.transport.write(INNER_ANSWER)
    lane.inner.transport.answered(False)
    lane.feed(b"no size\r\n")
    assert lane.plug.ended == "eof"
    assert lane.plug.written == INNER_ANSWER


def test_a_connection_that_aiohttp_has_left_takes_no_more_requests() -> None:
    lane = LoneLane(answering=False)
    lane.feed(GET)
    lane.answer_inner()
    lane.inner.transport.close()
    assert lane.plug.ended == "close"
    other = LoneLane(answering=False)
    other.feed(GET)
    other.answer_inner()
    other.feed(POST)
    other.inner.transport.close()
    other.lane.fail(ApiError("queue_full", "no"))
    assert b"Connection: close" in other.plug.written and other.plug.ended == "close"


# Ends ------------------------------------------------------------------------------------------------


def idle(lane: LoneLane) -> None:
    lane.feed(POST)
    lane.lane.fail(ApiError("queue_full", "no"))


STATES: dict[str, Callable[[LoneLane], None]] = {
    "new": lambda lane: None,
    "head": lambda lane: lane.feed(POST[:30]),
    "idle": idle,
    "body": lambda lane: lane.feed(POST[:-1]),
    "chunks": lambda lane: lane.feed(CHUNKED + b"5\r\nab"),
    "call": lambda lane: lane.feed(POST),
    "call, surplus": lambda lane: lane.feed(POST + POST * 10),
    "call, discarding": lambda lane: lane.feed(POST, b"x" * 60_000, b"x" * 60_000, b"x" * 60_000),
    "answering": lambda lane: (lane.feed(POST), lane.lane.head(200, ANSWER, True), lane.lane.flush()),
    "call, blocked": lambda lane: (lane.feed(POST), lane.stuff()),
    "idle, blocked": lambda lane: (idle(lane), lane.stuff()),
    "waits": lambda lane: (idle(lane), lane.stuff(), lane.feed(POST)),
    "aiohttp": lambda lane: lane.feed(GET),
    "aiohttp, body": lambda lane: lane.feed(OFFERED + b"ab"),
    "aiohttp, body, answered": lambda lane: (lane.feed(OFFERED), lane.answer_inner()),
    "call after aiohttp": lambda lane: (lane.feed(GET), lane.answer_inner(), lane.feed(POST)),
    "lingering": lambda lane: lane.feed(b"garbage"),
    "closing": lambda lane: (idle(lane), lane.lane.shut()),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("blow", ["eof", "lost", "eof, then lost", "abort", "abort, twice", "shut", "time"])
def test_whatever_ends_a_connection_everybody_is_told_once(state: str, blow: str) -> None:
    lane = LoneLane(answering=False)
    STATES[state](lane)
    if "eof" in blow and lane.plug.reading:
        lane.lane.eof_received()
        assert lane.plug.ended in ("close", "abort")
    if blow == "shut":
        lane.lane.shut()
    if "abort" in blow:
        lane.lane.abort()
        lane.lane.abort()
        lane.lane.on_alarm(lane.now_ns + 100 * SECOND_NS)
    if blow == "time":
        for second in range(40):
            lane.now_ns = second * SECOND_NS
            lane.lane.on_alarm(lane.now_ns)
            lane.settle()
        held = state in ("call", "call, surplus", "call, discarding", "answering", "aiohttp", "call after aiohttp")
        assert bool(lane.plug.ended) is not held, "who waits for an answer has no limit here"
    lane.lane.connection_lost(None)
    assert lane.gone == 1
    assert [told for call in lane.waiting for told in call.told if told == "gone"] == (
        ["gone"] if lane.waiting and "idle" not in state and state not in ("waits", "closing") else []
    )
    if lane.inner is not None:
        assert lane.inner.told == ["gone"]
    lane.loop.turn()  # what was to go on
    assert lane.lane.on_alarm(10**15) > 10**15


def test_nothing_is_begun_on_a_connection_that_was_aborted() -> None:
    lane = LoneLane(answering=False)
    lane.feed(POST + POST)
    lane.lane.head(200, ANSWER, True)
    lane.lane.body(b"{}")
    lane.lane.abort()
    lane.lane.end()
    assert len(lane.seen) == 1
    lane.lane.connection_lost(None)
    assert lane.waiting[0].told == []


def test_nothing_comes_behind_an_answer_that_was_cut() -> None:
    lane = LoneLane(answering=False)
    lane.feed(POST + POST)
    lane.lane.head(200, b"", False)
    lane.lane.body(b"data: 1\n\n")
    lane.lane.cut(b"data: error\n\n")
    assert lane.plug.written.endswith(b"data: 1\n\ndata: error\n\n\r\n")
    assert lane.plug.ended == "eof", "more may be on its way"
    assert len(lane.seen) == 1
