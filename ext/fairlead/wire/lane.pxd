"""A client's connection; see lane.pyx."""

from fairlead.wire.headers cimport Headers
from fairlead.wire.patience cimport Patience
from fairlead.wire.reader cimport Reader
from libc.stdint cimport int64_t

cdef class Inbound:
    cdef readonly str request_id
    cdef readonly str path
    cdef readonly str query
    cdef readonly Headers headers
    cdef readonly bytes body
    cdef readonly str peer_ip

cdef class Lane(Patience):
    cdef Reader reader
    cdef object call            # the request that is with the gateway
    cdef object inner           # aiohttp's protocol, once it was needed
    cdef str query
    cdef str peer_ip
    cdef bint advancing
    cdef bint yielded           # go_on is to come
    cdef bint fresh             # nothing was received on it yet
    cdef bint discarding        # of what follows too much came: the connection ends with this answer
    cdef bint inner_whole       # aiohttp has the whole request
    cdef bint inner_answered
    cdef bint inner_wrote
    cdef bint inner_paused

    cdef advance(self)
    cdef bint has_to_wait(self, bint for_others) except -1
    cdef go_on_later(self)
    cdef bint read_head(self) except -1
    cdef take_lane(self)
    cdef begin(self, bytes body)
    cdef give_inner(self, bytes head)
    cdef forward(self)
    cdef refuse(self, error)
    cdef refuse_head(self, error)
    cdef send_error(self, error, bint keep)
    cdef have_id(self)
    cdef refusal(self, code, message)
    cdef answered(self)
    cdef leave(self)
