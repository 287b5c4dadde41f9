"""A node's head as its client is told it, and the lines that are the router's own."""

from __future__ import annotations

import pytest

from fairlead.headers import for_client, queue_lines
from fairlead.wire.answer import server_timing
from fairlead.wire.headers import whole_lines

JSON = (b"Content-Type", b"application/json")
STREAM = (b"Content-Type", b"text/event-stream; charset=utf-8")


def test_what_is_remembered_of_an_answer_is_not_told_of_the_next() -> None:
    for length in (b"5", b"6", b"5"):
        head = for_client([(b"Server", b"x"), JSON, (b"content-length", length), (b"Date", length)])
        assert head.lines == b"Content-Type: application/json\r\nContent-Length: " + length + b"\r\n"
        assert (head.sized, head.event_stream, head.encoded) == (True, False, False)
        head = for_client([STREAM])
        assert head.lines == (
            b"Content-Type: text/event-stream; charset=utf-8\r\nX-Accel-Buffering: no\r\nCache-Control: no-cache\r\n"
        )
        assert (head.sized, head.event_stream, head.encoded) == (False, True, False)


def test_a_name_goes_on_as_it_was_spelt() -> None:
    assert for_client([(b"content-TYPE", b"a")]).lines == b"content-TYPE: a\r\n"
    assert for_client([JSON]).lines == b"Content-Type: application/json\r\n"


def test_a_value_that_is_not_plain_text_is_dropped_and_the_one_before_it_is_not_told_instead() -> None:
    named = b"openai-processing-ms"
    assert for_client([(named, b"12")]).lines == b"openai-processing-ms: 12\r\n"
    assert for_client([(named, b"1\xfc")]).lines == b""
    assert for_client([(named, b"12")]).lines == b"openai-processing-ms: 12\r\n"
    assert b"no-cache" in for_client([STREAM, (b"Cache-Control", b"\xfc")]).lines
    assert b"no-cache" not in for_client([STREAM, (b"Cache-Control", b"private")]).lines


def test_long_values_pass_and_names_without_number() -> None:
    long = b"x" * 5000
    for name in (b"openai-long", b"Content-Type"):
        assert for_client([(name, long)]).lines == name + b": " + long + b"\r\n"
    for number in range(2000):
        name = b"openai-%d" % number
        assert for_client([(name, b"a"), (name, b"b")]).lines == name + b": a\r\n" + name + b": b\r\n"


@pytest.mark.parametrize(("coding", "encoded"), [(b"gzip", True), (b" Identity ", False), (b"", False)])
def test_a_coding_is_seen(coding: bytes, encoded: bool) -> None:
    head = for_client([(b"content-Encoding", coding)])
    assert (head.lines, head.encoded) == (b"", encoded)


def test_the_lines_of_the_queue() -> None:
    assert queue_lines(None, 0, None) == b"X-Queue-Status: direct\r\n"
    assert queue_lines(7_900_000, 3, 2) == (
        b"X-Queue-Status: queued\r\nX-Queue-Wait-Ms: 7\r\nX-Queue-Position: 3\r\nX-Estimated-Wait: 2\r\n"
    )


@pytest.mark.parametrize(
    ("times_ns", "told"),
    [
        ((0, 0, 0), b"queue;dur=0.0, connect;dur=0.0, ttfb;dur=0.0"),
        ((99_999, 100_000, 12_345_678_900), b"queue;dur=0.0, connect;dur=0.1, ttfb;dur=12345.6"),
        ((2**63 - 1, 10_050_000, 1), b"queue;dur=9223372036854.7, connect;dur=10.0, ttfb;dur=0.0"),
    ],
)
def test_times_are_told_in_tenths_of_milliseconds(times_ns: tuple[int, int, int], told: bytes) -> None:
    assert server_timing(*times_ns) == b"Server-Timing: " + told + b"\r\n"


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        (b"", True),
        (b"A: b\r\n", True),
        (b"A: b\r\nC:\r\n", True),
        (b"\r\n", False),
        (b"A: b\r\n\r\n", False),
        (b"A: b\r\nC", False),
        (b"A: b\r", False),
        (b"A: b\rC: d\r\n", False),
    ],
)
def test_lines_are_whole_or_not(text: bytes, whole: bool) -> None:
    assert whole_lines(text) is whole
