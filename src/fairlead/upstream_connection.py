"""One HTTP/1.1 exchange at a time on one connection to a node.

Promise: an answer only ever comes from the exchange that asked. Exactly one of ``on_end`` and ``on_lost`` is called
per exchange, or neither after ``abort()``; half an answer is never an end.

Theory. llhttp does all framing, strictly (no leniency is switched on). What it lets through and a router must not is
refused here: RTSP and ICE start lines, HTTP/0.9 and 2.0, status codes outside 200..599, 101, transfer codings other
than ``chunked``, chunked on HTTP/1.0, a message whose length ends with the connection (llhttp can't tell us, so we
watch the headers). A connection is kept only if the node agreed, the whole request had left, and not one byte followed
the answer: llhttp would take such a byte for the start of the next answer, which is how one user's answer reaches
another. While it is idle any byte, EOF or error discards it.

Every forced end is ``transport.abort()``: ``close()`` waits for buffers that a stuck node never drains.

Nothing is buffered: each piece of a body is handed on inside the parser's callback.
"""

from __future__ import annotations

import asyncio
import select
import socket
from typing import Any, Final

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpResponseParser

from fairlead.upstream_exchange import Exchange, Kind, Lost, Phase, raised

HEAD_MAX_BYTES: Final = 64 * 1024
HEADERS_MAX: Final = 256
CONTINUES_MAX: Final = 8
# What a transport may take at once of a large body, so that 32 MiB never lie in its buffer a second time.
SLICE_BYTES: Final = 256 * 1024
# Head and body up to this leave in one write, one segment where they fit.
ONE_WRITE_BYTES: Final = 64 * 1024
# Left alone, the kernel grows it to tcp_rmem's maximum (6 MiB and more) behind a client that reads slowly.
RECEIVE_BUFFER_BYTES: Final = 256 * 1024
START: Final = b"HTTP/1."
LENGTH: Final = b"content-length"
CODING: Final = b"transfer-encoding"
COPIED_MAX_BYTES: Final = 4096  # up to there a copy costs less than a view
BODILESS: Final = (204, 304)


class Owner:
    """What a connection needs of its pool."""

    loop: asyncio.AbstractEventLoop

    def opened(self) -> None:
        raise NotImplementedError

    def gone(self) -> None:
        raise NotImplementedError

    def keep(self, connection: Connection) -> bool:
        """Whether it is kept for the next exchange."""
        raise NotImplementedError

    def distrust(self, connection: Connection) -> None:
        """Its node spoke unasked or left."""
        raise NotImplementedError

    def retry(self, exchange: Exchange, head: bytes, body: bytes, paused: bool) -> None:
        """It was dead when the request was sent."""
        raise NotImplementedError


class Violation(Exception):
    """The node broke a rule that llhttp does not watch."""


class Connection:
    """The asyncio.Protocol of one connection; ``begin`` starts an exchange on it, its end frees it for the next.

    Compiled: see upstream_connection.pxd.
    """

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._transport: Any = None
        self._parser: Any = None
        self.adopted = False
        self.early: Lost | None = None  # what went wrong before the connection was adopted
        self._exchange: Exchange | None = None
        self._dead = False
        self._paused = False
        self._writable = True
        self._poller = select.poll()
        self.idle_since = 0.0
        self._reset(b"", b"", False)

    def _reset(self, head: bytes, body: bytes, reused: bool) -> None:
        self._head = head
        self._body = body
        self._unsent = len(body)
        self._reused = reused
        self._started = 0  # bytes of START that have come
        self._headers: list[tuple[bytes, bytes]] = []
        self._header_count = 0
        self._header_bytes = 0
        self._overhead = 0  # bytes since the last byte of a body: head, chunk lines and extensions, trailers
        self._continues = 0
        self._sized = False  # the answer says where it ends
        self._head_done = False
        self._complete = False
        self._keep_alive = False

    # The pool and the exchange

    def adopt(self) -> None:
        """Takes the connection over from ``create_connection`` when that has returned, not in ``connection_made``:
        uvloop closes a transport whose dialling is cancelled or too late without a ``connection_lost``."""
        plug = self._transport.get_extra_info("socket")
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._poller.register(plug.fileno(), select.POLLIN)
        self._parser = HttpResponseParser(self)
        self.adopted = True
        self._owner.opened()

    def begin(self, exchange: Exchange, head: bytes, body: bytes, reused: bool) -> None:
        """Writes the request; the connection belongs to this exchange until its end."""
        self._reset(head, body, reused)
        self._exchange = exchange
        exchange.link = self
        try:
            exchange.on_connected(reused)
        except Exception as error:
            raised(self._owner.loop, "on_connected", error)
            self._lose("internal", "on_connected raised")
        if self._exchange is not exchange:
            return
        if len(head) + len(body) <= ONE_WRITE_BYTES:
            self._unsent = 0
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._send_more()

    def quiet(self) -> bool:
        """Whether this idle connection is open with nothing to read: no EOF, no stray answer waits in the kernel.

        The loop may not have told us yet; what arrives after this look can't be told from an answer by anyone.
        """
        return not self._dead and not self._transport.is_closing() and not self._poller.poll(0)

    def pause(self) -> None:
        if not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._paused and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    def abort(self) -> None:
        self._exchange = None
        self.drop()

    def drop(self) -> None:
        """Cuts the connection without a word to anyone."""
        if not self._dead:
            self._dead = True
            if self._transport is not None:
                self._transport.abort()

    # The transport

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._send_more()

    def _send_more(self) -> None:
        while self._unsent and self._writable and not self._dead and not self._transport.is_closing():
            start = len(self._body) - self._unsent
            piece = memoryview(self._body)[start : start + SLICE_BYTES]
            self._unsent -= len(piece)
            self._transport.write(piece)

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            self._idle_noise("protocol", "the node spoke unasked")
            return
        surplus = False
        try:
            self._feed(data)
        except HttpParserCallbackError as error:
            cause = error.__context__
            if self._complete:
                surplus = True
            elif isinstance(cause, Violation):
                self._lose("protocol", str(cause))
            else:
                self._callback_raised(cause)
        except (HttpParserError, HttpParserUpgrade, Violation) as error:
            surplus = self._complete
            if not surplus:
                self._lose("protocol", str(error))
        if self._exchange is exchange:
            if self._complete:
                self._end(surplus)
            else:
                self._tell_read(exchange)

    def _tell_read(self, exchange: Exchange) -> None:
        try:
            exchange.on_read()
        except Exception as error:
            raised(self._owner.loop, "on_read", error)
            self._lose("internal", "a callback raised")

    def _feed(self, data: bytes) -> None:
        if self._started < len(START):
            self._look_at_start(data)
            if not self._unsent:
                self._head = self._body = b""  # no retry from here on; the sender may have let go of its body too
        self._overhead += len(data)
        feed = self._parser.feed_data
        last = b"\n" if data.endswith(b"\n") else b"\r" if data.endswith(b"\r") else b""
        if last:
            # llhttp skips blank lines between messages without a callback. Held back, the last byte shows whether the
            # answer had ended before it.
            feed(data[:-1] if len(data) <= COPIED_MAX_BYTES else memoryview(data)[:-1])
            if self._complete:
                raise Violation("bytes after the end of the answer")
            data = last
        feed(data)
        if self._overhead > HEAD_MAX_BYTES:
            raise Violation(f"more than {HEAD_MAX_BYTES} bytes of head, chunk extensions or trailers")

    def _look_at_start(self, data: bytes) -> None:
        for byte in data:
            self._started += 1
            if byte != START[self._started - 1]:
                raise Violation("not an HTTP/1 answer")
            if self._started == len(START):
                break

    def eof_received(self) -> None:
        if self._exchange is not None and self._head_done and not self._sized and not self._complete:
            self._end(False)
        else:
            self._node_left("eof", "the node closed the connection")

    def connection_lost(self, error: Exception | None) -> None:
        if not self._dead:
            self._node_left("reset", str(error) if error else "connection lost")
        if self.adopted:
            self._owner.gone()
            self._parser = None  # it holds our methods: a cycle

    # The parser

    def on_message_begin(self) -> None:
        if self._complete:
            raise Violation("bytes after the end of the answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_count += 1
        self._header_bytes += len(name) + len(value) + 4
        if self._header_count > HEADERS_MAX or self._header_bytes > HEAD_MAX_BYTES:
            raise Violation(f"more than {HEADERS_MAX} headers or {HEAD_MAX_BYTES} bytes of them")
        if self._head_done:
            return  # a trailer
        self._headers.append((name, value))
        size = len(name)
        if size == len(LENGTH) and name.lower() == LENGTH:
            self._sized = True
        elif size == len(CODING) and name.lower() == CODING:
            if self._sized or value.lower() != b"chunked" or self._parser.get_http_version() != "1.1":
                raise Violation("a Transfer-Encoding other than one chunked in HTTP/1.1")
            self._sized = True

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        headers, self._headers = self._headers, []
        if status == 100:
            self._continues += 1
            if self._continues > CONTINUES_MAX:
                raise Violation(f"more than {CONTINUES_MAX} times 100 Continue")
            self._sized = False
            return
        # Of the first head _feed has seen the version; llhttp lets 0.9 and 2.0 through behind a 100 Continue.
        if not 200 <= status <= 599 or (self._continues and self._parser.get_http_version() not in ("1.0", "1.1")):
            raise Violation(f"status {status} or an unknown HTTP version")
        self._sized = self._sized or status in BODILESS
        self._head_done = True
        if self._exchange is not None:
            self._exchange.on_head(status, headers)

    def on_body(self, data: bytes) -> None:
        self._overhead = 0
        if self._exchange is not None:
            self._exchange.on_body(data)

    def on_message_complete(self) -> None:
        self._complete = self._head_done  # else it was a 100 Continue
        self._keep_alive = self._parser.should_keep_alive()  # asked later, llhttp says False

    # Ends. Each detaches first and calls the exchange last: from there it may send again, on this very connection.

    def _end(self, surplus: bool) -> None:
        exchange = self._detach()
        sent = self._unsent == 0 and self._transport.get_write_buffer_size() == 0
        keep = self._keep_alive and sent and not surplus
        if keep:
            self.resume()
        if surplus:
            self._owner.distrust(self)
        if not (keep and self._owner.keep(self)):
            self.drop()
        try:
            exchange.on_end()
        except Exception as error:
            raised(self._owner.loop, "on_end", error)

    def _lose(self, kind: Kind, detail: str) -> None:
        if self._exchange is None:
            return
        buffered = self._unsent or (not self._transport.is_closing() and self._transport.get_write_buffer_size())
        phase: Phase = "body" if self._head_done else "send" if buffered and not self._started else "head"
        exchange = self._detach()
        self.drop()
        try:
            exchange.on_lost(Lost(phase, kind, detail))
        except Exception as error:
            raised(self._owner.loop, "on_lost", error)

    def _detach(self) -> Exchange:
        exchange, self._exchange = self._exchange, None
        assert exchange is not None
        exchange.link = None
        self._head = self._body = b""
        return exchange

    def _node_left(self, kind: Kind, detail: str) -> None:
        if self._exchange is None:
            self._idle_noise(kind, detail)
        elif self._reused and not self._started:
            head, body = self._head, self._body
            exchange = self._detach()
            self.drop()
            self._owner.retry(exchange, head, body, self._paused)
        else:
            self._lose(kind, detail)

    def _idle_noise(self, kind: Kind, detail: str) -> None:
        if self._dead:
            return
        if self.adopted:
            self._owner.distrust(self)
        else:
            self.early = Lost("send", kind, detail)
        self.drop()

    def _callback_raised(self, error: BaseException | None) -> None:
        if isinstance(error, Exception):
            context = {"message": "upstream: a callback of an exchange raised", "exception": error}
            self._owner.loop.call_exception_handler(context)
            self._lose("internal", "a callback raised")
        else:
            self.abort()
            raise error or RuntimeError("the parser lost a callback's exception")
