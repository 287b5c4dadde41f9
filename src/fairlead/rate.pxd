# What is compiled of rate.py: the attributes of its class are C's, the code is the Python there.

cimport cython

from libc.stdint cimport int64_t

cdef int64_t _WINDOW
cdef int64_t _SECOND_NS
cdef int64_t _SHORTEST_NS

cdef class DrainRate:
    cdef int64_t _last_ns
    cdef int64_t _worked_ns
    cdef int64_t _second
    cdef readonly int64_t _running
    cdef list _ended
    cdef int64_t _in_window
    cdef int64_t _measured
    cdef int64_t _measured_ns

    cpdef started(self, int64_t now_ns)
    cpdef ended(self, int64_t now_ns, int64_t count=*)
    @cython.locals(window_s=double)
    cdef double _rate(self, int64_t now_ns) except -1
    @cython.locals(rate=double)
    cpdef estimated_wait_s(self, int64_t now_ns, int64_t position)
    @cython.locals(since_ns=int64_t)
    cdef int64_t _window_ns(self) except -1
    @cython.locals(reached=int64_t)
    cdef _advance(self, int64_t now_ns)
    @cython.locals(each=int64_t)
    cdef _empty(self, int64_t reached)
