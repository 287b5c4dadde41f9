# What is compiled of places.py: the attributes of its class are C's, the code is the Python there.

from libc.stdint cimport int64_t, uint64_t

cdef class Places:
    cdef object _scheduler
    cdef object _shape
    cdef bint _tiered
    cdef dict _team_limits
    cdef dict _pool_limits
    cdef dict _groups
    cdef dict _twins
    cdef set _cheap_pools
    cdef dict _cheap_nodes
    cdef dict _first_nodes
    cdef dict _pools_of

    cpdef tuple find(self, int64_t now_ns, int64_t pool, int tier, str team, bint cheap)
    cpdef uint64_t core_user(self, int64_t pool, uint64_t user) except? 0x5eed
    cdef int64_t _make_twin(self, int64_t now_ns, int64_t pool) except -1
    cdef int64_t _place(self, int64_t now_ns, int64_t pool, int tier, str team) except -1
    cdef int64_t _make_group(self, int64_t now_ns, int64_t pool, int tier, str team) except -1
    cpdef int64_t node_of(self, int64_t handle) except -1
