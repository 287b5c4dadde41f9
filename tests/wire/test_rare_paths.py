"""What a connection hardly ever meets, each by itself."""

from __future__ import annotations

import logging
import os
from typing import Any

import pytest
from lone_lane import GET, HEAD, OFFERED, POST, LoneLane

from fairlead.errors import ApiError
from fairlead.wire.headers import Headers, Refused, whole_lines
from fairlead.wire.ids import make_request_id, sane_request_id

ONE = b"POST /v1/chat/completions HTTP/1."


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        (HEAD + b"A: " + b"x" * 70_000, "bad_request"),  # no end of the head within limits.head
        (ONE + b"0\r\nTransfer-Encoding: chunked\r\n\r\n", "bad_request"),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", "unsupported_method"),
        (HEAD + b"Sec-WebSocket-Key1: x\r\n\r\n", "bad_request"),
        (b"GET /" + b"x" * 9_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", "bad_request"),
        (HEAD + b"".join(b"A%d: b\r\n" % number for number in range(200)) + b"\r\n", "bad_request"),
        (HEAD + b"A: " + b"x" * 9_000 + b"\r\n\r\n", "bad_request"),
        (HEAD + b"Content-Length: 1234567890123456\r\n\r\n", "request_too_large"),
        (b"A" * 40, "unsupported_method"),
        (
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"ffff\r\n" + b"x" * 65_535 + b"\r\n2\r\n",
            "request_too_large",
        ),
    ],
    ids=[
        "endless head",
        "chunks in 1.0",
        "CONNECT",
        "WebSocket draft",
        "long target",
        "many headers",
        "long header",
        "long length",
        "no method",
        "endless chunks",
    ],
)
def test_what_is_refused_says_why_and_is_the_last(stream: bytes, code: str) -> None:
    lane = LoneLane(answering=False, body_max=65_535)
    lane.feed(stream, b"xx")
    assert lane.refused == [code]
    assert not lane.seen and lane.plug.ended


def test_a_defect_ends_its_connection_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    def fails(value: str, request_id: str, path: str) -> ApiError:
        raise LookupError("planted")

    lane = LoneLane(wrong_coding=fails)
    with caplog.at_level(logging.ERROR, logger="fairlead.lane"):
        lane.feed(HEAD + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}")
    assert "a connection failed" in caplog.text and "planted" in caplog.text
    assert lane.plug.ended == "abort" and not lane.plug.written


@pytest.mark.parametrize("body", [b"", b"{}"])
def test_a_connection_is_good_for_another_request_if_the_refused_ones_body_is_there(body: bytes) -> None:
    def wrong(value: str, request_id: str, path: str) -> ApiError:
        return ApiError("unsupported_encoding", "planted")

    lane = LoneLane(wrong_coding=wrong)
    lane.feed(HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body + POST)
    assert lane.plug.written.count(b"HTTP/1.1 415") == 1
    assert len(lane.seen) == 1 and not lane.plug.ended


def test_an_answer_without_a_body_has_no_chunks() -> None:
    lane = LoneLane(answering=False)
    lane.feed(POST)
    lane.lane.head(204, b"", False)
    lane.lane.end()
    assert b"Transfer-Encoding" not in lane.plug.written and lane.plug.written.endswith(b"\r\n\r\n")
    lane.feed(POST)
    assert len(lane.waiting) == 2


def test_half_an_answer_of_aiohttps_is_not_followed_by_another() -> None:
    """Its request's body turns out to be broken when aiohttp has begun to answer."""
    lane = LoneLane()
    lane.feed(b"POST /v1/models HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na")
    assert lane.inner is not None
    lane.inner.transport.writelines([b"HTTP/1.1 200 OK\r\n", b"Content-Length: 5\r\n\r\nab"])
    assert lane.inner.transport.get_write_buffer_size() == lane.plug.buffered
    lane.feed(b"nonsense\r\n")
    assert lane.plug.ended == "abort"
    assert lane.plug.written.endswith(b"\r\n\r\nab")


def test_aiohttp_may_abort() -> None:
    lane = LoneLane()
    lane.feed(OFFERED)
    assert lane.inner is not None
    lane.inner.transport.abort()
    assert lane.plug.ended == "abort"


def test_what_aiohttp_says_when_its_request_is_over_changes_nothing() -> None:
    lane = LoneLane()
    lane.feed(GET)
    assert lane.inner is not None
    written = bytes(lane.plug.written)
    lane.inner.transport.answered(False)
    lane.feed(GET)
    assert bytes(lane.plug.written) == written * 2 and not lane.plug.ended


def test_who_is_gone_is_neither_closed_again_nor_answered() -> None:
    lane = LoneLane(answering=False)
    lane.feed(POST)
    lane.lane.connection_lost(None)
    lane.lane.eof_received()
    assert lane.waiting[0].told == ["gone"] and not lane.plug.ended


@pytest.mark.parametrize("text", [b"A: b\r", b"A: b", b"\r\nA: b\r\n", b"A: b\r\n\r\n", b"A: b\rC: d\r\n"])
def test_half_a_line_and_a_blank_one_are_no_header_lines(text: bytes) -> None:
    assert not whole_lines(text)
    assert whole_lines(b"A: b\r\nC: d\r\n") and whole_lines(b"")


@pytest.mark.parametrize("value", ["a\r", "a\nb", "\0"])
def test_a_value_that_is_not_one_line_goes_nowhere(value: str) -> None:
    with pytest.raises(Refused, match="CR, LF or NUL"):
        Headers([("Accept", value)]).lines(frozenset(("accept",)), "openai-", "")


def test_an_id_of_no_length_is_none() -> None:
    assert sane_request_id("") is None


def test_ids_do_not_repeat_when_the_drawn_bytes_are_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    real = os.urandom

    def counted(size: int) -> Any:
        drawn.append(size)
        return real(size)

    monkeypatch.setattr(os, "urandom", counted)
    assert len({make_request_id() for _ in range(1_000)}) == 1_000
    assert 3 <= len(drawn) <= 5
