# What is compiled of gateway.py: the attributes of its class are C's, the code is the Python there.

cimport cython

from fairlead.call cimport Call, Outgoing, Surroundings
from fairlead.driver cimport Driver
from fairlead.headers cimport for_node
from fairlead.identity cimport Identity, User
from fairlead.inspection cimport Facts, inspect
from fairlead.metrics cimport Meter
from fairlead.policy cimport Terms
from fairlead.wire.headers cimport Headers
from fairlead.wire.lane cimport Inbound
from libc.stdint cimport int64_t

cdef class Gateway:
    cdef readonly object paths
    cdef public bint draining
    cdef object _config
    cdef Driver _driver
    cdef object _nodes
    cdef readonly Meter _meter
    cdef Identity _identity
    cdef Terms _terms
    cdef int64_t _width_max
    cdef object _prices
    cdef bint _reads
    cdef Surroundings _surroundings

    @cython.locals(call=Call)
    cpdef begin(self, Inbound request, carrier)
    @cython.locals(
        call=Call, outgoing=Outgoing, headers=Headers, path=str, facts=Facts, user=User, now_ns=int64_t, never_wait=bint,
        deadline_ns=int64_t, total_deadline_ns=int64_t, pool=object, place=int64_t,
    )
    cdef Call _call(self, Inbound request, carrier)
    cdef tuple _find_place(self, int64_t pool, Call call)

cpdef str _own_path(str path)
