# What is compiled of upstream.py: the attributes of its classes are C's, the code is the Python there.

cimport cython

from fairlead.upstream_connection cimport Connection, Owner
from libc.stdint cimport int64_t

cdef class Endpoint:
    cdef readonly str host
    cdef readonly int port
    cdef readonly object ssl_context
    cdef str _base_path
    cdef bytes _lines
    cdef dict _starts

    @cython.locals(start=bytes)
    cpdef bytes request_head(self, str target, bytes lines, Py_ssize_t content_length)
    cdef bytes _start(self, str target)

cdef class Pool(Owner):
    cdef readonly Endpoint endpoint
    cdef readonly bint closed
    cdef public Py_ssize_t idle_max
    cdef readonly int64_t open
    cdef public int64_t dials
    cdef readonly int64_t reuses
    cdef readonly int64_t stale_retries
    cdef readonly int64_t discarded
    cdef double _idle_s
    cdef readonly double _connect_s
    cdef list _idle
    cdef readonly set _dials
    cdef object _timer

    @cython.locals(connection=Connection)
    cpdef send(self, bytes head, bytes body, exchange)
    cdef _dial(self, exchange, bytes head, bytes body, bint paused)
