"""The scheduler as a Python class; other extensions (the lane, the benchmark loop) reach through it to the Core."""

from fairlead.core.dispatch cimport Core
from libc.stdint cimport int32_t, int64_t

cdef class Scheduler:
    cdef Core core
    cdef unsigned long owner
    cdef int enter(self, int64_t now_ns) except -1
    cdef int require(self, str kind, int64_t number, int64_t first, int64_t count) except -1
    cdef int require_pool(self, int64_t pool) except -1
    cdef int require_level(self, int64_t place) except -1
    cdef int require_place(self, int64_t place) except -1
    cdef int require_group(self, int64_t group) except -1
    cdef int require_limit(self, int64_t limit) except -1
    cdef int32_t add_level(self, str kind, int32_t first, int32_t count, int32_t parent, int64_t weight, int64_t rank,
                           int64_t limit) except -1
    cdef list pools_of(self, int32_t node)
