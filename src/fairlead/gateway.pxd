# What is compiled of gateway.py: the attributes of its class are C's, the code is the Python there.

cimport cython

from fairlead.call cimport Call, Outgoing, Surroundings
from fairlead.driver cimport Driver
from fairlead.metrics cimport Meter
from libc.stdint cimport int64_t

cdef class Gateway:
    cdef readonly object paths
    cdef public bint draining
    cdef object _config
    cdef Driver _driver
    cdef object _nodes
    cdef readonly Meter _meter
    cdef object _identity
    cdef object _prices
    cdef bint _reads
    cdef Surroundings _surroundings

    @cython.locals(call=Call)
    cpdef begin(self, request, carrier)
    @cython.locals(call=Call, outgoing=Outgoing)
    cdef Call _call(self, request, carrier)
    cdef _find_place(self, pool, Call call)
