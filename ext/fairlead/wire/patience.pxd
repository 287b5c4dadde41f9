"""How long a client's connection may be the way it is; see patience.pyx."""

from fairlead.wire.answer cimport Answer
from libc.stdint cimport int64_t

cdef enum State:
    READING
    BODY
    CALL
    INNER
    CLOSING
    CLOSED

cdef class Settings:
    cdef public object loop
    cdef public object now_ns
    cdef public object common
    cdef public object begin
    cdef public object refusal
    cdef public object unbegun
    cdef public object wrong_coding
    cdef public object inner
    cdef public object alarm
    cdef public object opened
    cdef public object gone
    cdef public dict paths
    cdef public int64_t body_max
    cdef public int64_t head_max
    cdef public int64_t head_ns
    cdef public int64_t body_ns
    cdef public int64_t keep_alive_ns
    cdef public int64_t stall_ns
    cdef public bint draining

cdef class Patience(Answer):
    cdef Settings settings
    cdef readonly int slot
    cdef int state
    cdef int64_t since_ns       # when the state, or the head, or the standstill began
    cdef int64_t alarm_ns       # when the listener looks at this connection
    cdef int64_t looked_ns      # when it was looked at whether the client reads
    cdef size_t stalled_bytes   # what it had not taken then
    cdef bint blocked           # the transport takes no more
    cdef bint lingering         # CLOSING: the client may still be sending

    cdef bint admit(self, transport) except -1
    cdef close_gently(self, bint input_is_whole)
    cdef int64_t limit_ns(self)
    cdef over(self)
    cdef int64_t due_ns(self, int64_t now_ns)
    cdef set_alarm(self)
    cdef look_at_stall(self, int64_t now_ns)

    cpdef abort(self)
