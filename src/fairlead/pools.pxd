# What is compiled of pools.py: the attributes of its class are C's, the code is the Python there.

cdef class Pools:
    cdef object _driver
    cdef object _moved
    cdef dict _pool_of
    cdef dict _nodes_of
    cdef set _leaving

    cpdef pool_of(self, str model, str path=*)
