# What is compiled of headers.py: the attributes of its classes are C's, the code is the Python there.

cimport cython

from fairlead.wire.headers cimport Headers
from libc.stdint cimport int64_t

cdef class NodeHead:
    cdef readonly bytes lines
    cdef readonly bint sized
    cdef readonly bint event_stream
    cdef readonly bint encoded

cdef class Known:
    cdef str name
    cdef bint is_length
    cdef bint is_type
    cdef bint is_cache_control
    cdef bint is_coding
    cdef bint passes
    cdef bytes value
    cdef bytes line
    cdef bint event_stream

    cdef look_at(self, bytes value)

cdef class Common:
    cdef str _server
    cdef int64_t _second
    cdef bytes _lines

    @cython.locals(second=int64_t)
    cpdef bytes lines(self)

cdef dict _known

cdef Known _know(bytes raw_name, Py_ssize_t value_bytes)

@cython.locals(
    raw_name=bytes, raw_value=bytes, known=Known, lines=list,
    sized=bint, event_stream=bint, encoded=bint, cache_control=bint,
)
cpdef NodeHead for_client(list raw)

cpdef bytes for_node(Headers headers, str request_id)
