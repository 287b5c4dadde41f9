# What is compiled of policy.py: what is asked of each request is C's, the code is the Python there.

cimport cython

from fairlead.identity cimport User
from fairlead.strict cimport one_header
from fairlead.wire.headers cimport Headers
from libc.stdint cimport int64_t

cdef class Terms:
    cdef int64_t _total_ns
    cdef int64_t _queue_ns
    cdef bint _weighted

    @cython.locals(total_ns=int64_t, queue_ns=int64_t, total_ms=int64_t, queue_ms=int64_t)
    cpdef (int64_t, bint, int64_t) deadlines(self, Headers headers, int64_t now_ns) except *
    cpdef int tier(self, Headers headers, User user) except -1
    cpdef int64_t weight(self, User user) except -1

cdef int64_t _milliseconds(Headers headers, str key, str name, int64_t low) except -2
