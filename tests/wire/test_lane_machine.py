"""Everything that may happen to one connection, in any order: every answer belongs to its request, every call is told
its end once, and a connection that is left alone ends."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from random import Random

import pytest
from lone_lane import SECOND_NS, LoneLane

from fairlead.errors import ApiError

EXAMPLES = {"dev": 3_000, "ci": 30_000}
ANSWER = re.compile(rb"HTTP/1\.1 (\d+) [^\r]*\r\n(?:[^\r]+\r\n)*\r\n")
JUNK = (b"junk\r\n", b"\n", b"POST ", b"0\r\n\r\n", b"\0" * 70_000)
KINDS = ("sized", "chunked", "empty", "other", "other, sized", "other, chunked", "last", "old", "upgrade")


def request(number: int, kind: str) -> bytes:
    """The number-th; its target says so."""
    path = b"/other" if kind.startswith("other") else b"/v1/chat/completions"
    lines = [b"POST %b?%d HTTP/1.%d" % (path, number, kind != "old"), b"Host: x", b"X-Request-Id: n%d" % number]
    body = b"%d\r\n\r\n" % number * 3
    if kind == "last":
        lines.append(b"Connection: close")
    if kind == "upgrade":
        lines += [b"Connection: Upgrade", b"Upgrade: x"]
    if kind.endswith("chunked"):
        lines.append(b"Transfer-Encoding: chunked")
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    elif kind in ("empty", "other"):
        body = b""
    else:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join((*lines, b"", b"")) + body


class Connection:
    """What may happen are the methods in EVENTS."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.lone = LoneLane(answering=False)
        self.lane = self.lone.lane
        self.coming = bytearray()  # what the client has sent and the router not read
        self.sent = 0
        self.answering = False  # the head of an answer is out
        self.lost = False
        self.due_ns = self.lone.alarms[0]

    def is_open(self) -> bool:
        return not (self.lost or self.lone.plug.ended)

    def has_call(self) -> bool:
        """A call is under way, and its client there."""
        waiting = self.lone.waiting
        return bool(waiting) and waiting[-1].told[-1:] not in (["gone"], ["ended"])

    # The client

    def client_asks(self) -> None:
        self.sent += 1
        kind = self.random.choice(KINDS)
        self.coming += request(self.sent, kind)

    def client_sends_blank_lines(self) -> None:
        self.coming += b"\r\n"

    def client_sends_junk(self) -> None:
        self.coming += self.random.choice(JUNK)

    def bytes_come(self) -> None:
        size = self.random.choice((1, 3, 50, 500, 1 << 18, 1 << 18))
        piece = bytes(self.coming[:size])
        del self.coming[:size]
        self.lane.data_received(piece)

    def client_ends(self) -> None:
        self.lane.eof_received()
        assert self.lone.plug.ended in ("close", "abort")
        self.connection_is_lost()

    def client_reads_no_more(self) -> None:
        self.lone.plug.buffered = 100_000
        self.lane.pause_writing()

    def client_reads_on(self) -> None:
        self.lone.plug.buffered = 0
        self.lane.resume_writing()

    # The node and aiohttp

    def call_fails(self) -> None:
        self.ends()
        self.lane.fail(ApiError("queue_full", "no"))

    def answer_begins(self) -> None:
        sized = self.random.random() < 0.5
        self.answering = True
        self.lane.head(200, b"Content-Length: 2\r\n" if sized else b"", sized)
        self.lane.body(b"ab")
        self.lane.flush()

    def answer_ends(self) -> None:
        self.ends()
        self.lane.end()

    def answer_is_cut(self) -> None:
        event = self.random.choice((b"data: error\n\n", None))
        self.ends()
        self.lane.cut(event)

    def ends(self) -> None:
        self.answering = False
        self.lone.waiting[-1].told.append("ended")

    def aiohttp_answers(self) -> None:
        self.lone.answer_inner(self.random.random() < 0.9)

    def aiohttp_closes(self) -> None:
        assert self.lone.inner is not None
        self.lone.inner.transport.close()

    # The loop

    def loop_turns(self) -> None:
        self.lone.loop.turn()

    def time_passes(self) -> None:
        self.lone.now_ns += int(self.random.choice((0.01, 0.01, 0.01, 0.1, 0.1, 0.1, 0.1, 1, 3, 11)) * SECOND_NS)
        self.look()

    def look(self) -> None:
        due_ns = min([self.due_ns, *self.lone.alarms])
        self.lone.alarms.clear()
        self.due_ns = due_ns
        if self.lone.now_ns >= due_ns:
            self.due_ns = self.lane.on_alarm(self.lone.now_ns)
            assert self.due_ns > self.lone.now_ns

    def listener_shuts(self) -> None:
        self.lone.settings.draining = True
        self.lane.shut()

    def connection_is_lost(self) -> None:
        self.lost = True
        self.lane.connection_lost(None)
        if self.lone.inner is not None:
            assert self.lone.inner.told[-1] == "gone"

    def finish(self) -> None:
        self.nothing_is_mixed_up()
        if not self.lost:
            self.left_alone()
            self.connection_is_lost()
        told = [word for call in self.lone.waiting for word in call.told if word in ("gone", "ended")]
        assert len(told) == len(self.lone.waiting), "a call was told its end twice or never"
        assert self.lone.gone == 1
        assert self.lone.loop.turn() is None

    def left_alone(self) -> None:
        """Without a word from anybody it ends, unless somebody is to answer or the router is to read on."""
        for _ in range(400):
            self.lone.loop.turn()
            self.lone.now_ns += SECOND_NS
            self.look()
        if self.lone.plug.ended == "":
            assert (self.has_call() or self.lone.at_aiohttp) and not self.lone.plug.buffered
        else:
            assert self.lone.plug.ended in ("close", "abort")

    def nothing_is_mixed_up(self) -> None:
        """Every request was read as it was sent, in order, and what was written are whole answers in that order."""
        numbers = [int(seen.target.partition("?")[2]) for seen in self.lone.seen]
        assert numbers == list(range(1, len(numbers) + 1))
        for number, seen in zip(numbers, self.lone.read, strict=False):
            assert seen.body in (b"", b"%d\r\n\r\n" % number * 3)
        ids = re.findall(rb"X-Request-Id: n(\d+)\r\n", self.lone.plug.written)
        assert ids == sorted(ids, key=int) and len(set(ids)) == len(ids)
        assert len(ANSWER.findall(self.lone.plug.written)) <= len(numbers) + 1  # the last may be of what is no request


# How often, when, what.
EVENTS: list[tuple[int, Callable[[Connection], bool], Callable[[Connection], None]]] = [
    (200, lambda it: len(it.coming) < 1000, Connection.client_asks),
    (10, lambda it: True, Connection.client_sends_blank_lines),
    (1, lambda it: True, Connection.client_sends_junk),
    (400, lambda it: it.is_open() and bool(it.coming) and it.lone.plug.reading, Connection.bytes_come),
    (80, lambda it: it.is_open() and not it.lone.plug.buffered, Connection.client_reads_no_more),
    (160, lambda it: it.is_open() and bool(it.lone.plug.buffered), Connection.client_reads_on),
    (100, lambda it: it.has_call() and not it.answering, Connection.call_fails),
    (200, lambda it: it.has_call() and not it.answering, Connection.answer_begins),
    (200, lambda it: it.has_call() and it.answering, Connection.answer_ends),
    (10, lambda it: it.has_call() and it.answering, Connection.answer_is_cut),
    (300, lambda it: it.is_open() and it.lone.at_aiohttp, Connection.aiohttp_answers),
    (2, lambda it: it.is_open() and it.lone.inner is not None and not it.lone.at_aiohttp, Connection.aiohttp_closes),
    (100, lambda it: True, Connection.loop_turns),
    (30, lambda it: not it.lost, Connection.time_passes),
    (3, Connection.is_open, Connection.listener_shuts),
    (5, lambda it: not it.lost and it.lone.plug.reading and it.lone.plug.ended in ("", "eof"), Connection.client_ends),
    (5, lambda it: not it.lost, Connection.connection_is_lost),
]


def happen(seed: int, happened: Counter[str]) -> Connection:
    random = Random(seed)
    connection = Connection(random)
    while random.random() > 0.01 and not connection.lost:
        possible = [(weight, event) for weight, enabled, event in EVENTS if enabled(connection)]
        (event,) = random.choices([event for _, event in possible], [weight for weight, _ in possible])
        happened[event.__name__] += 1
        event(connection)
    connection.finish()
    return connection


def test_one_connection_and_whatever_happens_to_it(request: pytest.FixtureRequest) -> None:
    happened: Counter[str] = Counter()
    examples = EXAMPLES[request.config.getoption("--profile")]
    for seed in range(examples):
        try:
            connection = happen(seed, happened)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error
        happened["requests"] += len(connection.lone.seen)
        for call in connection.lone.waiting:
            happened.update(call.told)
    assert {event.__name__ for _, _, event in EVENTS} <= set(happened)
    assert happened["requests"] > examples and min(happened[word] for word in ("gone", "pause", "resume")) > 100
    print(happened)
