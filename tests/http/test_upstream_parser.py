"""What we lean on in httptools and llhttp: if one of these changes, look at upstream_connection again."""

from __future__ import annotations

import httptools
import pytest

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL"


class Events:
    def __init__(self, raises: str = "") -> None:
        self.seen: list[str] = []
        self.raises = raises
        self.keep_alive: bool | None = None
        self.parser = httptools.HttpResponseParser(self)

    def _note(self, name: str) -> None:
        if name == self.raises:
            raise KeyError(name)
        self.seen.append(name)

    def on_message_begin(self) -> None:
        self._note("begin")

    def on_body(self, data: bytes) -> None:
        self._note(f"body:{data.decode()}")

    def on_message_complete(self) -> None:
        self.keep_alive = self.parser.should_keep_alive()
        self._note("complete")


def test_what_the_parser_does_behind_the_end_of_a_message() -> None:
    events = Events()
    events.parser.feed_data(PLAIN + b"\r\n\r\n")
    assert events.seen == ["begin", "body:hello", "complete"]  # blank lines vanish without a callback
    assert events.keep_alive is True
    assert events.parser.should_keep_alive() is False  # right only inside on_message_complete
    events.parser.feed_data(EVIL)
    assert events.seen[3:] == ["begin", "body:EVIL", "complete"]  # a second answer is taken for one

    events = Events()
    with pytest.raises(httptools.HttpParserError, match="Expected HTTP/, RTSP/ or ICE/"):
        events.parser.feed_data(PLAIN + b"x")
    assert events.seen == ["begin", "body:hello", "complete", "begin"]

    events = Events()
    closing = PLAIN.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n")
    with pytest.raises(httptools.HttpParserError, match="Data after"):
        events.parser.feed_data(closing + EVIL)
    assert events.seen == ["begin", "body:hello", "complete"]


def test_what_the_parser_does_with_an_upgrade_and_with_our_exceptions() -> None:
    events = Events()
    with pytest.raises(httptools.HttpParserUpgrade) as upgrade:
        events.parser.feed_data(b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nraw")
    assert not isinstance(upgrade.value, httptools.HttpParserError)
    for name in ("begin", "body:hello", "complete"):
        with pytest.raises(httptools.HttpParserCallbackError) as failure:
            Events(raises=name).parser.feed_data(PLAIN)
        assert isinstance(failure.value.__context__, KeyError)


@pytest.mark.parametrize(
    "answer", [PLAIN.replace(b"HTTP/1.1", start) for start in (b"RTSP/1.0", b"ICE/1.0", b"HTTP/0.9", b"HTTP/2.0")]
)
def test_what_the_parser_lets_through_and_we_do_not(answer: bytes) -> None:
    events = Events()
    events.parser.feed_data(answer)
    assert events.seen == ["begin", "body:hello", "complete"]
