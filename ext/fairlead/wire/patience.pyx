"""How long a client's connection may be the way it is, and how it ends.

Promise: a connection that says nothing, says it too slowly, does not take what was written to it or does not go is
ended in time, and never by a ``close()`` alone, which waits for a reader that never reads.

Theory. A connection has at most one time limit at a time, by its state, and one place in its listener's heap, which
may be too early but never too late: so a request that is answered in time touches no timer. A reader is stuck when
what lies before it has not become less for ``stall_ns``; as nobody tells of that, it is looked at a few times within.
"""

from libc.stdint cimport int64_t

cdef enum:
    LOOKS = 4               # within the time that a standstill may last
    SOON_NS = 1_000_000

cdef int64_t LINGER_NS = 1_000_000_000  # how long a client may send on after it was refused


cdef class Settings:
    """See patience.pyi."""


cdef class Patience(Answer):
    """The state of a connection (see lane.pyx) against the clock."""

    cdef bint admit(self, transport) except -1:
        """Take the connection over. False: it is one too many."""
        self.transport = transport
        self.since_ns = self.settings.now_ns()
        self.slot = self.settings.opened(self)
        if self.slot < 0:
            self.state = CLOSED
            transport.abort()
            return False
        self.alarm_ns = self.due_ns(self.since_ns)
        self.settings.alarm(self, self.alarm_ns)
        return True

    cdef int64_t limit_ns(self):
        """How long the state may last; 0: for ever."""
        raise NotImplementedError

    cdef over(self):
        """It has lasted that long."""
        raise NotImplementedError

    cdef close_gently(self, bint input_is_whole):
        """Let the client have what was written. Input that nobody reads would turn the close into a reset that takes
        the answer along: so only our side is closed, and the rest is read for a moment."""
        if self.state == CLOSED:
            return
        self.state = CLOSING
        self.since_ns = self.looked_ns = self.settings.now_ns()
        self.stalled_bytes = self.transport.get_write_buffer_size()
        self.lingering = not input_is_whole
        if self.lingering:
            self.transport.resume_reading()
            self.transport.write_eof()
        else:
            self.transport.close()
        self.set_alarm()

    def is_closing(self):
        return self.state >= CLOSING or self.transport.is_closing()

    cpdef abort(self):
        """End it now; what is under way on it is told when the transport is gone."""
        if self.state != CLOSED:
            self.state = CLOSING
            self.transport.abort()

    cdef int64_t due_ns(self, int64_t now_ns):
        """When to look at it, as things stand."""
        cdef int64_t limit_ns
        if self.lingering:
            return self.looked_ns + LINGER_NS
        if self.blocked or self.state == CLOSING:
            limit_ns = self.settings.stall_ns
            return min(self.since_ns + limit_ns, self.looked_ns + limit_ns // LOOKS)
        limit_ns = self.limit_ns()
        return self.since_ns + limit_ns if limit_ns else now_ns + self.settings.keep_alive_ns

    cdef set_alarm(self):
        """Be looked at in time."""
        cdef int64_t at_ns = self.due_ns(self.since_ns)
        if at_ns < self.alarm_ns:
            self.alarm_ns = at_ns
            self.settings.alarm(self, at_ns)

    def on_alarm(self, int64_t now_ns):
        """Look at the time. When to look again."""
        if self.state != CLOSED and self.due_ns(now_ns) <= now_ns:
            if self.state == CLOSING or self.blocked:
                self.look_at_stall(now_ns)
            else:
                self.over()
        self.alarm_ns = max(self.due_ns(now_ns), now_ns + SOON_NS)
        return self.alarm_ns

    cdef look_at_stall(self, int64_t now_ns):
        """The client has not taken all that was written: has it taken some since we looked? One that has taken all,
        and is read for a moment, is done with."""
        cdef size_t left = self.transport.get_write_buffer_size()
        if left < self.stalled_bytes:
            self.since_ns = now_ns
        elif (self.lingering and not left) or now_ns - self.since_ns >= self.settings.stall_ns:
            self.abort()
        self.stalled_bytes = left
        self.looked_ns = now_ns
