"""A lane without a socket: bytes go in as a test cuts them, and what it makes of them is kept.

The lane, its settings and aiohttp's parser behind it are the real ones; only the transport, the clock and those who
answer are the test's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import BadStatusLine, HttpProcessingError
from aiohttp.http_parser import HttpRequestParser
from aiohttp.http_writer import HttpVersion10

from fairlead.errors import ApiError
from fairlead.listener import unbegun
from fairlead.wire.inner import InnerTransport
from fairlead.wire.lane import Inbound, Lane
from fairlead.wire.patience import Settings

CHAT = "/v1/chat/completions"
INNER_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
SECOND_NS = 1_000_000_000
# Requests of both doors, and one whose body is still to come.
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
POST = HEAD + b"Content-Length: 2\r\n\r\n{}"
GET = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
OFFERED = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
LOOP = asyncio.new_event_loop()  # aiohttp's parser asks for one and never runs it
LOOP.close()


@dataclass
class Seen:
    """A request as one of the readers has read it. headers: name in lower case and value, in order."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    keep: bool
    body: bytes = b""


def comparable(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Names in lower case; without Upgrade, which means nothing here and is not shown to aiohttp."""
    return [(name.lower(), value) for name, value in pairs if name.lower() != "upgrade"]


class AiohttpReader:
    """aiohttp's own parser, for one request after the other as its server would use it."""

    def __init__(self) -> None:
        protocol = BaseProtocol(LOOP)
        self._parser = HttpRequestParser(protocol, LOOP, 1 << 24, auto_decompress=False)
        protocol._parser = self._parser
        self._payloads: list[Any] = []
        self.seen: list[Seen] = []

    def feed(self, data: bytes) -> None:
        """Raises what aiohttp raises."""
        messages, upgraded, _ = self._parser.feed_data(data)
        if upgraded:
            self._parser.set_upgraded(False)
        for message, payload in messages:
            if message.version < HttpVersion10:
                raise BadStatusLine("HTTP/0.9 has no end of a head to wait for")
            headers = comparable(message.headers.items())
            path, _, query = message.path.partition("?")
            target = f"{path}?{query}" if query else path  # an empty query is none
            self.seen.append(Seen(message.method, target, headers, not message.should_close))
            self._payloads.append(payload)
        if self.seen:
            self.seen[-1].body += self._payloads[-1].read_nowait()

    @property
    def whole(self) -> bool:
        """The last request is there to its end."""
        return bool(self._payloads) and self._payloads[-1].is_eof()


class Plug:
    """A transport that keeps what is written, or as much as the client takes."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.buffered = 0
        self.reading = True
        self.ended = ""  # "eof", "close" or "abort"

    def write(self, data: bytes) -> None:
        assert self.ended in ("", "abort"), "written to after the end"
        if not self.ended:  # what comes behind an abort is dropped
            self.written += data

    def writelines(self, pieces: Iterable[bytes]) -> None:
        self.write(b"".join(pieces))

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def is_closing(self) -> bool:
        return self.ended in ("close", "abort")

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def write_eof(self) -> None:
        self.ended = self.ended or "eof"

    def close(self) -> None:
        self.ended = "close"

    def abort(self) -> None:
        self.ended = "abort"


class Waiting:
    """What a call looks like to its lane."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def client_gone(self) -> None:
        self.told.append("gone")

    def pause(self) -> None:
        self.told.append("pause")

    def resume(self) -> None:
        self.told.append("resume")


class Inner:
    """What stands for aiohttp's protocol: its parser, and what the lane tells it."""

    def __init__(self, lane: LoneLane) -> None:
        self.reader = AiohttpReader()
        self.transport = InnerTransport(lane.lane)
        self._lane = lane
        self._taken = 0
        self.told: list[str] = []

    def data_received(self, data: bytes) -> None:
        try:
            self.reader.feed(data)
        except HttpProcessingError:
            self._lane.refused_by_aiohttp = self._lane.at_aiohttp = True
            return
        if len(self.reader.seen) > self._taken:
            self._lane.seen += self.reader.seen[self._taken :]
            self._taken = len(self.reader.seen)
            self._lane.at_aiohttp = True

    def answer(self, keep: bool) -> None:
        """As aiohttp's server does it; without keep it then closes."""
        self.transport.write(INNER_ANSWER)
        self.transport.answered(keep)
        if not keep:
            self.transport.close()

    def pause_writing(self) -> None:
        assert "pause" not in self.told[-1:]
        self.told.append("pause")

    def resume_writing(self) -> None:
        assert self.told[-1:] == ["pause"]
        self.told.append("resume")

    def connection_lost(self, error: Exception | None) -> None:
        self.told.append("gone")


@dataclass
class Loop:
    """The lane's loop: what is to be called soon."""

    soon: list[Any] = field(default_factory=list)

    def call_soon(self, callback: Any) -> None:
        self.soon.append(callback)

    def turn(self) -> None:
        soon, self.soon = self.soon, []
        for callback in soon:
            callback()


class LoneLane:
    """One connection. answering: every request is answered at once; else calls stay in ``waiting``."""

    def __init__(self, answering: bool = True, **changed: Any) -> None:
        self.answering = answering
        self.now_ns = 0
        self.seen: list[Seen] = []
        self.refused: list[str] = []
        self.waiting: list[Waiting] = []
        self.alarms: list[int] = []
        self.at_aiohttp = False  # a request is with it that has no answer
        self.refused_by_aiohttp = False
        self.gone = 0
        self.loop = Loop()
        self.plug = Plug()
        self.inner: Inner | None = None
        self.settings = self._settings(changed)
        self.lane = Lane(self.settings)
        self.lane.connection_made(self.plug)  # type: ignore[arg-type]

    def _settings(self, changed: dict[str, Any]) -> Settings:
        settings = Settings()
        settings.loop = self.loop  # type: ignore[assignment]
        settings.now_ns = lambda: self.now_ns
        settings.common = lambda: b"Server: test\r\n"
        settings.begin = self._begin
        settings.unbegun = unbegun
        settings.refusal = self._refusal
        settings.wrong_coding = lambda value, request_id, path: None
        settings.inner = self._behind
        settings.alarm = lambda lane, at_ns: self.alarms.append(at_ns)
        settings.opened = lambda lane: 0
        settings.gone = self._gone
        settings.paths = {CHAT.encode(): CHAT}
        settings.body_max = settings.head_max = 1 << 16
        settings.head_ns = settings.body_ns = settings.keep_alive_ns = settings.stall_ns = 10 * SECOND_NS
        for name, value in changed.items():
            setattr(settings, name, value)
        return settings

    def _begin(self, inbound: Inbound, lane: Lane) -> Waiting | None:
        headers = comparable(inbound.headers.pairs)
        target = inbound.path + ("?" + inbound.query if inbound.query else "")
        self.seen.append(Seen("POST", target, headers, True, inbound.body))
        if self.answering:
            written = len(self.plug.written)
            lane.fail(ApiError("queue_full", "no"))
            self.seen[-1].keep = b"\r\nConnection: close\r\n" not in self.plug.written[written:]
            return None
        self.waiting.append(Waiting())
        return self.waiting[-1]

    def _refusal(self, code: str, message: str, request_id: str, path: str) -> ApiError:
        self.refused.append(code)
        return ApiError(code, message)

    def _behind(self, lane: Lane) -> Inner:
        self.inner = Inner(self)
        return self.inner

    def _gone(self, lane: Lane) -> None:
        self.gone += 1

    def feed(self, *pieces: bytes) -> None:
        for piece in pieces:
            if self.plug.ended == "":
                assert self.plug.reading
                self.lane.data_received(piece)
                self.settle()

    def settle(self) -> None:
        """Let the loop turn, and aiohttp answer, until nothing more happens."""
        while self.plug.ended == "" and (self.loop.soon or self.to_answer):
            self.loop.turn()
            if self.to_answer:
                self.answer_inner(not self.refused_by_aiohttp and self.seen[-1].keep)

    def stuff(self, buffered: int = 100_000) -> None:
        """The client does not take what was written: the transport has enough."""
        self.plug.buffered = buffered
        self.lane.pause_writing()

    def take(self) -> None:
        """It has taken all."""
        self.plug.buffered = 0
        self.lane.resume_writing()
        self.settle()

    def answer_inner(self, keep: bool = True) -> None:
        """Let what stands for aiohttp answer."""
        assert self.inner is not None
        self.at_aiohttp = False
        self.inner.answer(keep)

    @property
    def to_answer(self) -> bool:
        whole = self.inner is not None and self.inner.reader.whole
        return self.answering and self.at_aiohttp and (whole or self.refused_by_aiohttp)

    @property
    def end(self) -> str:
        """What became of the connection: "more" if it is read on, else the code of the refusal, or "closed"."""
        if self.refused_by_aiohttp:
            return "aiohttp"
        return self.refused[-1] if self.refused else "closed" if self.plug.ended else "more"

    @property
    def read(self) -> list[Seen]:
        """The requests that were there to their end."""
        half = self.inner is not None and self.seen[-1:] == self.inner.reader.seen[-1:] and not self.inner.reader.whole
        return self.seen[:-1] if half else self.seen
