# What is compiled of identity.py: the attributes of its classes are C's, the code is the Python there.

cimport cython

from fairlead.strict cimport one_header
from fairlead.wire.headers cimport Headers
from libc.stdint cimport int64_t, uint64_t

cdef class User:
    cdef readonly str name
    cdef readonly uint64_t key
    cdef readonly int64_t weight
    cdef readonly int64_t running_max
    cdef readonly int64_t waiting_max
    cdef readonly int tier
    cdef readonly str team

cdef class Peer:
    cdef readonly User user
    cdef readonly bint trusted

cdef class Source:
    cdef readonly str key
    cdef readonly str name

cdef class Identity:
    cdef object _config
    cdef bytes _seed
    cdef list _sources
    cdef readonly dict _named
    cdef readonly dict _peers

    @cython.locals(peer=Peer, source=Source, name=str)
    cpdef User user(self, Headers headers, str peer_ip, str body_user)
    cdef User _name(self, str name, Source source)
    cdef User _make(self, str kind, str name)
    cdef Peer _look_at(self, str peer_ip)

cdef _check(str name, Source source)
