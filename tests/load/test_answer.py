"""The reader of answers, on every way of cutting them into pieces, and on what is none."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead.load.answer import AnswerReader

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-ENCODING: chunked\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n"


def read(*pieces: bytes) -> tuple[AnswerReader, bytes]:
    reader = AnswerReader()
    return reader, b"".join([reader.feed(piece) for piece in pieces])


def framed(body: bytes, cuts: list[int], extension: bytes, trailer: bytes) -> bytes:
    """In chunks that end at these places."""
    places = sorted({min(cut, len(body)) for cut in cuts} | {0, len(body)})
    chunks = [body[low:high] for low, high in pairwise(places)]
    return b"".join(b"%X%s\r\n%s\r\n" % (len(each), extension, each) for each in chunks) + b"0\r\n" + trailer + b"\r\n"


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    return [data[low:high] for low, high in pairwise(places)]


places = st.lists(st.integers(0, 60_000), max_size=12)
bodies = st.binary(max_size=300) | st.integers(0, 40_000).map(lambda size: (b"0123456789abcde\r\n" * 2500)[:size])


@given(bodies, places, places, st.sampled_from([b"", b";a=b", b" "]), st.sampled_from([b"", b"X: y\r\nZ: 1\r\n"]))
def test_a_chunked_body_comes_out_as_it_went_in(
    body: bytes, chunks: list[int], cuts: list[int], extension: bytes, trailer: bytes
) -> None:
    reader, got = read(*pieces_of(CHUNKED + framed(body, chunks, extension, trailer), cuts))
    assert (reader.state, got) == ("complete", body)
    assert reader.status == 200 and reader.keep_alive and reader.event_stream


@given(bodies, places)
def test_a_body_of_known_length_comes_out_as_it_went_in(body: bytes, cuts: list[int]) -> None:
    head = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length:  %d\r\nConnection: Close\r\n\r\n" % len(body)
    reader, got = read(*pieces_of(head + body, cuts))
    assert (reader.state, got) == ("complete", body)
    assert reader.status == 503 and not reader.keep_alive and not reader.event_stream


@given(bodies, places, st.sampled_from([b"0", b"1"]))
def test_a_body_may_end_with_the_connection(body: bytes, cuts: list[int], version: bytes) -> None:
    reader, got = read(*pieces_of(b"HTTP/1." + version + b" 200 OK\r\n\r\n" + body, cuts))
    assert reader.state == "more"
    reader.end()
    assert (reader.state, got, reader.keep_alive) == ("complete", body, False)


@pytest.mark.parametrize(
    "whole",
    [CHUNKED + framed(b"some body", [4], b"", b"A: b\r\n"), b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nsome body"],
    ids=["chunks", "length"],
)
def test_an_answer_that_stops_anywhere_is_cut(whole: bytes) -> None:
    for end in range(len(whole)):
        reader, _ = read(whole[:end])
        assert reader.state == "more", whole[:end]
        reader.end()
        assert reader.state == "cut", whole[:end]
    assert read(*(whole[i : i + 1] for i in range(len(whole))))[0].state == "complete"


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2x\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999999999\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabc",
        CHUNKED + b"x\r\n",
        CHUNKED + b"\r\n",
        CHUNKED + b"5x\r\nabcde\r\n",
        CHUNKED + b"fffffffffffffffff\r\n",
        CHUNKED + b"2\r\nabc\r\n",
        CHUNKED + b"0\r\n\r\nHTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 9000,
        CHUNKED + b"1;" + b"y" * 9000,
        b"HTTP/1.1 204 No Content\r\n\r\nx",
    ],
    ids=lambda data: data[-24:].decode(),
)
def test_what_is_no_answer_is_broken(data: bytes) -> None:
    assert read(data)[0].state == "broken"
    assert read(*(data[i : i + 1] for i in range(len(data))))[0].state == "broken"


def test_interim_answers_are_passed_over_and_some_have_no_body() -> None:
    reader, got = read(b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nz")
    assert (reader.state, reader.status, got) == ("complete", 200, b"z")
    assert read(b"HTTP/1.1 204 No Content\r\n\r\n")[0].state == "complete"


@given(st.binary(max_size=400), places)
def test_any_bytes_are_read_in_bounds(data: bytes, cuts: list[int]) -> None:
    for head in (b"", b"HTTP/1.1 200 OK\r\n", CHUNKED, CHUNKED + b"2\r\n"):
        reader, got = read(*pieces_of(head + data, cuts))
        assert reader.state in ("more", "complete", "broken")
        assert len(got) <= len(data)
