"""A client's connection: the one port behind which there are two doors.

Promise: an inference request is carried from its first byte to the last byte of its answer without a task, a future or
a timer of its own, and every other request goes to aiohttp byte for byte. While a request waits or runs its connection
is always being read, so that a client that leaves is noticed at once, whatever it has sent before.

    state     what is done with bytes that come                                  it is left by
    READING   looked for the end of a head                                       a head, the alarm
    BODY      taken for the body of an inference request                         the body's end, the alarm
    CALL      kept for later, up to SURPLUS_MAX, then discarded                  the answer's end, the client's leaving
    INNER     given to aiohttp up to the request's end, then as in CALL          aiohttp's answer
    CLOSING   discarded; the last answer is on its way                           the client's end, the alarm
    CLOSED    -                                                                  -

Theory. One request at a time: what follows is looked at when its answer is out, so nothing is answered out of turn, and
a client that sends on and on gets ``Connection: close`` instead of the router's memory. Between requests, when nobody
waits for its leaving, a client that does not take its answers is not read either. Its time limits are in
patience.pyx, its writing half in answer.pyx, what llhttp reads for it in reader.pyx.
"""

import logging
import re
import socket
import struct

from fairlead.wire.headers import Refused, key_of

from fairlead.wire.ids cimport request_id_of
from fairlead.wire.patience cimport BODY, CALL, CLOSED, CLOSING, INNER, READING, Patience, Settings
from fairlead.wire.reader cimport Reader, too_large
from libc.stdint cimport int64_t

log = logging.getLogger("fairlead.lane")

cdef enum:
    SURPLUS_MAX = 65536     # bytes behind a request that is not answered yet
    TURN_MAX = 32           # requests of one connection that are looked at in one turn of the loop

# Closes with RST: a reader for whom the end of the connection is the end of the answer must not take this for it.
cdef bytes NO_LINGER = struct.pack("ii", 1, 0)
cdef object UPGRADE = re.compile(rb"(?i)\r\nupgrade:[^\r]*")
cdef str CONTENT_ENCODING = key_of("Content-Encoding")
cdef bytes CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


cdef class Inbound:
    """An inference request whose body is complete. query: what stood behind the question mark."""


cdef class Lane(Patience):
    """One connection's protocol. It is also the carrier of its call: see fairlead.call.Carrier."""

    def __init__(self, Settings settings):
        Patience.__init__(self, settings.common)
        self.settings = settings
        self.reader = Reader()
        self.call = self.inner = self.peer_ip = None
        self.query = ""
        self.state = READING
        self.fresh = True
        self.inner_whole = True

    # The transport ---------------------------------------------------------------------------------

    def connection_made(self, transport):
        if self.admit(transport):
            peer = transport.get_extra_info("peername")
            self.peer_ip = peer[0] if isinstance(peer, tuple) else None

    def connection_lost(self, error):
        call, inner = self.call, self.inner
        self.state = CLOSED
        self.call = self.inner = None
        self.reader.close()
        if self.slot >= 0:
            self.settings.gone(self)
        try:
            if call is not None:
                call.client_gone()
        finally:
            if inner is not None:
                inner.connection_lost(error)

    def eof_received(self):
        """A client that sends no more is taken for gone."""
        call, self.call = self.call, None
        self.close_gently(True)
        if call is not None:
            call.client_gone()

    def data_received(self, bytes data not None):
        cdef Reader reader = self.reader
        cdef bint idle = self.state == READING and not reader.begun()
        self.fresh = False
        if self.state >= CLOSING or self.discarding:
            return
        if self.state == READING or self.state == BODY or (self.state == INNER and not self.inner_whole):
            reader.put(data)
            if not self.advancing:
                self.advance()
            if idle and self.state == READING and reader.begun():
                self.since_ns = self.settings.now_ns()
        elif reader.pending() + len(data) <= SURPLUS_MAX:
            reader.put(data)
        else:
            self.discarding = True
            reader.held = None

    def pause_writing(self):
        self.blocked = True
        self.since_ns = self.looked_ns = self.settings.now_ns()
        self.stalled_bytes = self.transport.get_write_buffer_size()
        if self.call is not None:
            self.call.pause()
        elif self.state == INNER:
            self.inner_paused = True
            self.inner.pause_writing()
        self.set_alarm()

    def resume_writing(self):
        self.blocked = False
        self.since_ns = self.settings.now_ns()
        if self.inner_paused:  # it minds being told what it knows
            self.inner_paused = False
            self.inner.resume_writing()
        if self.call is not None:
            self.call.resume()
        elif self.state == READING and not self.yielded:
            self.go_on_later()

    # Reading ---------------------------------------------------------------------------------------

    cdef advance(self):
        """Look at what is held until more is needed or a request is with somebody."""
        cdef int heads = 0
        self.advancing = True
        try:
            while self.reader.held is not None:
                if self.state == READING:
                    heads += 1
                    if self.has_to_wait(heads > TURN_MAX) or not self.read_head():
                        break
                elif self.state == BODY:
                    body = self.reader.next_body(self.settings.body_max)
                    if body is None:
                        break
                    self.begin(body)
                elif self.state == INNER and not self.inner_whole:
                    self.forward()
                else:
                    break
        except Refused as error:
            self.refuse(self.refusal(error.code, error.message))
        except Exception as error:
            # A defect of ours; this connection can't be trusted any more, the others can.
            log.exception("a connection failed")
            self.abort()
        finally:
            self.advancing = False
        if self.state != CALL:
            self.set_alarm()

    cdef bint has_to_wait(self, bint for_others) except -1:
        """Whether the next request is not looked at now: for others have waited while this client's were, or it has
        not taken its answers. As it has no place and no slot meanwhile, it need not be read either."""
        if for_others and not self.yielded:
            self.go_on_later()
        if self.blocked or self.yielded:
            self.transport.pause_reading()
            return True
        return False

    cdef go_on_later(self):
        """In a turn of its own: within the callbacks of a transport one must not close it."""
        self.yielded = True
        self.settings.loop.call_soon(self.go_on)

    def go_on(self):
        self.yielded = False
        if self.state == READING and not self.blocked:
            self.transport.resume_reading()
            if self.reader.held is not None:
                self.advance()

    cdef bint read_head(self) except -1:
        """False: there is no whole head yet."""
        cdef Reader reader = self.reader
        cdef bytes head, path, query
        self.path = self.query = self.request_id = ""
        self.keep = False
        self.minor = 1
        head = reader.next_head(self.settings.head_max)
        if head is None:
            return False
        self.minor = reader.minor
        self.keep = reader.keep_alive
        path, query = reader.url, b""
        if b"?" in path:
            path, _, query = path.partition(b"?")
        name = self.settings.paths.get(path) if reader.method == b"POST" else None
        if name is None:
            self.give_inner(head)
            return True
        self.path = name
        self.query = query.decode("latin-1")
        self.take_lane()
        return True

    cdef take_lane(self):
        """A request that the gateway will get when its body is there."""
        cdef Reader reader = self.reader
        cdef Settings settings = self.settings
        self.request_id = request_id_of(reader.headers)
        if reader.headers.has(CONTENT_ENCODING):
            error = settings.wrong_coding(reader.headers.value(CONTENT_ENCODING), self.request_id, self.path)
            if error is not None:
                self.refuse_head(error)
                return
        if reader.length > settings.body_max:
            raise too_large(f"{reader.length} bytes long", settings.body_max)
        if reader.length == 0 and not reader.chunked:
            self.begin(b"")
            return
        self.state = BODY
        self.since_ns = settings.now_ns()
        if reader.held is None and self.minor == 1 and reader.expects:
            self.transport.write(CONTINUE)

    cdef refuse_head(self, error):
        """A request that its head is enough to refuse; if its body is there, the connection is good for another."""
        cdef Reader reader = self.reader
        if reader.chunked or reader.pending() < reader.length:
            self.refuse(error)
            return
        if reader.length:
            reader.next_sized()
        self.send_error(error, self.keep)
        self.answered()

    cdef begin(self, bytes body):
        """The request is whole: it is the gateway's from here on."""
        cdef Inbound inbound = Inbound.__new__(Inbound)
        inbound.request_id = self.request_id
        inbound.path = self.path
        inbound.query = self.query
        inbound.headers = self.reader.headers
        inbound.body = body
        inbound.peer_ip = self.peer_ip
        self.state = CALL
        try:
            call = self.settings.begin(inbound, self)
        except Exception as error:
            self.fail(self.settings.unbegun(error))
            return
        if self.state == CALL:  # else it has ended already
            self.call = call
            if self.blocked:
                call.pause()

    # aiohttp's door --------------------------------------------------------------------------------

    cdef give_inner(self, bytes head):
        self.state = INNER
        self.inner_answered = self.inner_wrote = False
        self.inner_whole = self.reader.length == 0 and not self.reader.chunked
        self.since_ns = self.settings.now_ns()
        if self.inner is None:
            self.inner = self.settings.inner(self)
        # Nobody here changes protocols, and aiohttp must not prepare to.
        self.inner.data_received(UPGRADE.sub(b"", head) if self.reader.upgrade else head)

    cdef forward(self):
        """A piece of the body that aiohttp waits for."""
        cdef bytes piece = self.reader.next_piece()
        self.inner_whole = self.reader.complete
        self.inner.data_received(piece)
        if self.inner_whole:
            self.transport.resume_reading()  # nothing that comes now is aiohttp's to stop
            if self.inner_answered:
                self.answered()

    def on_inner_answer(self, bint keep):
        """aiohttp has written an answer. keep: it would take another request."""
        if self.state != INNER:
            return
        self.inner_answered = True
        self.keep = self.keep and keep
        if self.inner_whole:
            self.answered()

    def on_inner_close(self):
        """aiohttp is done with the connection."""
        if self.state == INNER:
            self.close_gently(self.inner_whole)
        elif self.state == READING:
            self.leave()
        else:
            self.keep = False

    # The answer (fairlead.call.Carrier) ------------------------------------------------------------

    def head(self, int status, bytes lines not None, bint sized):
        self.write_head(status, lines, sized, self.discarding or self.settings.draining)

    def end(self):
        self.write_end()
        self.answered()

    def fail(self, error):
        self.call = None
        if self.state == CALL:  # else the connection is being aborted
            self.send_error(error, self.keep)
            self.answered()

    def cut(self, event):
        """The answer is broken off, after these last bytes; nothing may follow, not even the end of the chunks."""
        self.call = None
        self.keep = False
        if event is not None:
            self.chunk.append(event)
            self.flush()
            self.leave()
            return
        self.flush()
        plug = self.transport.get_extra_info("socket")
        if plug is not None:
            plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        self.state = CLOSING
        self.settings.loop.call_soon(self.transport.abort)  # uvloop writes at the end of its turn

    cdef send_error(self, error, bint keep):
        self.keep = keep and not (self.discarding or self.settings.draining)
        self.have_id()
        self.write_error(error)

    cdef have_id(self):
        if not self.request_id:
            self.request_id = request_id_of(self.reader.headers)

    cdef refusal(self, code, message):
        """The error for a request that the router can't read; path is empty where it did not come to that."""
        self.have_id()
        return self.settings.refusal(code, message, self.request_id, self.path)

    cdef refuse(self, error):
        """A request that does not get as far as the gateway. Its body may still be on its way."""
        if self.state >= CLOSING:
            return
        if self.state != INNER or not self.inner_wrote:
            self.send_error(error, False)
        elif not self.inner_answered:  # half an answer is out
            self.abort()
            return
        self.close_gently(False)

    cdef answered(self):
        """An answer is out: the next request, or the end."""
        self.call = None
        if self.state >= CLOSING:
            return
        self.since_ns = self.settings.now_ns()
        if not self.keep or self.discarding or self.settings.draining:
            self.leave()
            return
        self.state = READING
        if self.advancing:
            return
        if self.reader.held is not None:
            self.advance()
        else:
            self.set_alarm()

    cdef leave(self):
        """What was written is the last. Who has sent more than was answered may be sending still."""
        self.close_gently(self.reader.held is None and not self.discarding)

    # The end ---------------------------------------------------------------------------------------

    def shut(self):
        """The listener ends: an idle connection is closed, what runs gets its answer first."""
        if self.state == READING:
            self.close_gently(True)
        elif self.state == BODY:
            self.abort()

    cdef int64_t limit_ns(self):
        if self.yielded:
            return 0  # it is our turn
        if self.state == READING:
            return self.settings.head_ns if self.fresh or self.reader.begun() else self.settings.keep_alive_ns
        if self.state == BODY or (self.state == INNER and not self.inner_whole):
            return self.settings.body_ns
        return 0

    cdef over(self):
        if self.state == READING and not self.reader.begun():
            self.close_gently(True)
        else:
            what = "head" if self.state == READING else "body"
            self.refuse(self.refusal("request_timeout", f"the {what} of the request was not there in time"))
