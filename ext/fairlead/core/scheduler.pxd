"""The scheduler as a Python class; other extensions (the lane, the benchmark loop) reach through it to the Core."""

from fairlead.core.dispatch cimport Core
from libc.stdint cimport int32_t, int64_t

cdef class Scheduler:
    cdef Core core
    cdef unsigned long owner
    cdef int enter(self, int64_t now_ns) except -1
    cdef int require_pool(self, int64_t pool) except -1
    cdef int require_level(self, int64_t place) except -1
    cdef int require_place(self, int64_t place) except -1
    cdef int require_group(self, int64_t group) except -1
    cdef bint allocate(self, int64_t requests, int64_t flows, int32_t nodes_max, bint fifo, int32_t routing,
                       double gpu_weight, double queue_weight, int64_t rebase_at, int64_t seed,
                       bint by_deadline) noexcept
    cdef list pools_of(self, int32_t node)
