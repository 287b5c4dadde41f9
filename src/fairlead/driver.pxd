# What is compiled of driver.py: the attributes of its classes are C's, the code is the Python there.

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

    cpdef on_dispatch(self, node, now_ns)
    cpdef on_expire(self, kind, now_ns)
    cpdef on_timer(self, now_ns)
    cpdef on_broken(self)

cdef class Driver:
    cdef readonly object now_ns
    cdef readonly object _loop
    cdef readonly object _scheduler
    cdef readonly object _places
    cdef readonly dict _tickets
    cdef readonly object _timers
    cdef readonly dict _rates
    cdef object _random
    cdef public object _timer
    cdef Py_ssize_t _decisions_max
    cdef int64_t _armed_ns
    cdef bint _pumping
    cdef bint _again

    cpdef int64_t submit(self, Ticket ticket) except? 0x5eed
    cpdef bint cancel(self, Ticket ticket) except -1
    cpdef bint finish(self, Ticket ticket, int outcome, int64_t cost) except -1
    cpdef set_timer(self, Ticket ticket, int64_t at_ns)
    cdef _pump(self, int64_t now_ns)
    cdef _deliver(self, int kind, int64_t handle, int64_t node, int64_t now_ns)
    cdef _forget(self, Ticket ticket)
    cdef _arm(self)
    cdef _arm_at(self, int64_t at_ns)
