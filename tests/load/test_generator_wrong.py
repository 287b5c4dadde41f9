"""The generator against servers whose answers are wrong, or look as if they were."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from generator_runs import ended, make, run_until
from load_servers import Peer, chunk, scripted, stream

OTHER = b"9" * 16
ANNOUNCED = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
WRONG: dict[str, tuple[str, dict[str, Any], Callable[[Peer, bytes], Any]]] = {
    "an answer to somebody else": ("wrong_nonce", {}, lambda peer, nonce: peer.good(OTHER)),
    "an answer to nobody": ("wrong_nonce", {}, lambda peer, nonce: peer.answer(b"{}")),
    "a status": ("status", {}, lambda peer, nonce: peer.answer(b"bench:" + nonce, 429)),
    "too long": ("wrong_length", {"length": 10}, lambda peer, nonce: peer.good(nonce)),
    "not HTTP": ("broken_http", {}, lambda peer, nonce: peer.send(b"what?\r\n\r\n")),
    "more than announced": ("broken_http", {}, lambda peer, nonce: peer.send(ANNOUNCED % 1 + b"abc")),
    "closed at once": ("cut", {}, lambda peer, nonce: peer.shut()),
    "reset at once": ("cut", {}, lambda peer, nonce: peer.reset()),
    "closed in the head": ("cut", {}, lambda peer, nonce: (peer.send(b"HTTP/1.1 2"), peer.shut())),
    "reset in the body": ("cut", {}, lambda peer, nonce: (peer.send(ANNOUNCED % 99 + b"bench:" + nonce), peer.reset())),
    "silence": ("timeout", {"timeout_ns": 50_000_000}, lambda peer, nonce: time.sleep(0.1)),
    "half an answer": (
        "timeout",
        {"timeout_ns": 50_000_000},
        lambda peer, nonce: (peer.send(b"HTTP/1.1 200 OK\r\n"), time.sleep(0.1)),
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_plain_answer_that_is_wrong_is_counted_as_what_it_is(case: str) -> None:
    fault, options, wrong = WRONG[case]
    asked = threading.Semaphore(0)

    def script(peer: Peer) -> None:
        while True:
            nonce = peer.request()
            asked.release()
            wrong(peer, nonce)

    with scripted(script) as port:
        generator = make(port, **options)
        counts = run_until(generator, lambda counts: ended(counts) >= 3)
        generator.close()
    assert set(counts["faults"]) == {fault} and counts["good"] == 0, counts
    assert all(asked.acquire(blocking=False) for _ in range(3))
    assert counts["latency"] == []
    if fault == "status":
        assert set(counts["statuses"]) == {429} and counts["connects"] == 1


STREAMS: dict[str, tuple[str | None, Callable[[bytes], bytes]]] = {
    "good": (None, lambda n: stream(chunk(n, 0), chunk(n, 1), b"[DONE]")),
    "somebody else's": ("wrong_nonce", lambda n: stream(chunk(OTHER, 0), chunk(OTHER, 1), b"[DONE]")),
    "one chunk somebody else's": ("wrong_nonce", lambda n: stream(chunk(n, 0), chunk(OTHER, 1), b"[DONE]")),
    "one chunk without a mark": ("wrong_nonce", lambda n: stream(b"{}", chunk(n, 1), b"[DONE]")),
    "without [DONE]": ("bad_stream", lambda n: stream(chunk(n, 0), chunk(n, 1))),
    "with a gap": ("bad_stream", lambda n: stream(chunk(n, 0), chunk(n, 2), b"[DONE]")),
    "out of order": ("bad_stream", lambda n: stream(chunk(n, 1), chunk(n, 0), b"[DONE]")),
    "with an error": ("bad_stream", lambda n: stream(chunk(n, 0), b'{"error": {}}', chunk(n, 1), b"[DONE]")),
    "no events": (
        "bad_stream",
        lambda n: ANNOUNCED % 200 + (b"data: %s\ndata: %s\ndata: [DONE]\n" % (chunk(n, 0), chunk(n, 1))).ljust(200),
    ),
    "too short": ("wrong_length", lambda n: stream(chunk(n, 0), b"[DONE]")),
    "too long": ("wrong_length", lambda n: stream(chunk(n, 0), chunk(n, 1), chunk(n, 2), b"[DONE]")),
    "empty": ("wrong_nonce", lambda n: stream(b"[DONE]")),
    "cut": ("cut", lambda n: stream(chunk(n, 0), chunk(n, 1), b"[DONE]", end=b"")),
    "broken": ("broken_http", lambda n: stream(chunk(n, 0), end=b"zz\r\n")),
    "a status": ("status", lambda n: b"HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\n{}"),
}


@pytest.mark.parametrize("case", STREAMS)
@pytest.mark.parametrize("size", [3, 1_000_000], ids=["in pieces", "at once"])
def test_a_stream_that_is_wrong_is_counted_as_what_it_is(case: str, size: int) -> None:
    fault, written = STREAMS[case]

    def script(peer: Peer) -> None:
        while True:
            data = written(peer.request())
            for start in range(0, len(data), size):
                peer.send(data[start : start + size])
            if case == "cut":
                return

    with scripted(script) as port:
        generator = make(port, stream=True, length=2)
        counts = run_until(generator, lambda counts: ended(counts) >= 2)
        generator.close()
    assert set(counts["faults"]) == ({fault} if fault else set()), counts
    assert (counts["good"] == 0) == bool(fault)


def test_other_engines_repeat_no_nonce_and_may_leave_done_out() -> None:
    text = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: hello\n\ndata: {}\n\n" + b"data: {}\n\n" * 4
    with scripted(lambda peer: (peer.request(), peer.send(text))) as port:
        generator = make(port, stream=True, echo=False)
        counts = run_until(generator, lambda counts: counts["good"] >= 2)
        generator.close()
    assert not counts["faults"] and counts["length"] == 5 and counts["transit"] == []


def test_a_line_longer_than_the_buffer_is_one_chunk() -> None:
    line = b'{"x":"' + b"y" * 50_000 + b'"}'
    with scripted(lambda peer: (peer.request(), peer.send(stream(line, b"{}", b"[DONE]")))) as port:
        generator = make(port, stream=True, echo=False)
        counts = run_until(generator, lambda counts: counts["good"] >= 1)
        generator.close()
    assert counts["length"] == 2


@pytest.mark.parametrize("front", [0, 8190, 8200, 16_380, 40_000])
def test_a_nonce_is_found_wherever_it_stands_in_a_long_answer(front: int) -> None:
    def script(peer: Peer) -> None:
        while True:
            body = b"x" * front + b"bench:" + peer.request() + b":" + b"y" * 20_000
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
            for start in range(0, len(body), 5000):
                peer.send((head if start == 0 else b"") + body[start : start + 5000])

    with scripted(script) as port:
        generator = make(port)
        counts = run_until(generator, lambda counts: ended(counts) >= 3)
        generator.close()
    assert not counts["faults"] and counts["length"] == front + 20_023
