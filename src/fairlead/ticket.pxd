# What is compiled of ticket.py: the attributes of its class are C's, the code is the Python there.

from libc.stdint cimport int64_t, uint64_t

cdef class Ticket:
    cdef public int64_t handle
    cdef public int tier
    cdef public object team
    cdef public int64_t pool
    cdef public int64_t place
    cdef public uint64_t user
    cdef public int64_t weight
    cdef public int64_t cost
    cdef public int64_t width
    cdef public int64_t size_bytes
    cdef public int64_t deadline_ns
    cdef public int64_t running_max
    cdef public int64_t waiting_max
