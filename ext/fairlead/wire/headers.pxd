"""Header lines, in both directions; see headers.pyx."""

cdef class Headers:
    cdef list names            # (name, in lower case, as a line begins), in order
    cdef list values
    cdef dict first            # the first value of each name, which is in lower case
    cdef set repeated          # names of which there is more than one; None: there are none

    cpdef get(self, name, default=*)
    cdef add(self, bytes name, bytes value)
