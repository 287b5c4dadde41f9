# What is compiled of metrics.py: the attributes of its classes are C's, the code is the Python there.

cimport cython

from fairlead.ticket cimport Ticket
from fairlead.users cimport Users
from libc.stdint cimport int64_t

cdef int64_t _MINUTE_NS
cdef int _MINUTES

cdef class Histogram:
    cdef public list counts
    cdef public object sum_ns

    @cython.locals(bounds=tuple, bound_ns=int64_t, at=Py_ssize_t)
    cpdef observe(self, int64_t value_ns)

cdef class Minute:
    cdef public int64_t dispatched
    cdef public int64_t waited_ns
    cdef public int64_t ended
    cdef public int64_t processed_ns
    cdef public int64_t timeouts
    cdef public int64_t rejected

    cpdef add(self, Minute other)

cdef class Hour:
    cdef int64_t _minute
    cdef list _minutes

    @cython.locals(minute=int64_t)
    cpdef Minute minute(self, int64_t now_ns)
    @cython.locals(each=int64_t)
    cdef _turn(self, int64_t minute)

cdef class Meter:
    cdef readonly object log
    cdef readonly Users users
    cdef readonly int64_t unit
    cdef readonly Histogram wait
    cdef readonly Histogram duration
    cdef readonly Histogram first_byte
    cdef readonly Hour hour
    cdef readonly dict rejections
    cdef readonly dict withdrawn
    cdef readonly dict priced
    cdef bint _by_token

    cpdef rejected(self, str request_id, str path, error)
    cpdef entered(self, Ticket call, int64_t now_ns)
    cpdef moved(self, Ticket call, int64_t pool, int64_t place, int64_t now_ns)
    @cython.locals(minute=Minute)
    cpdef dispatched(self, Ticket call, int64_t now_ns)
    cpdef requeued(self, Ticket call)
    @cython.locals(minute=Minute)
    cpdef ended(self, Ticket call, str outcome, int64_t cost, int64_t now_ns)
