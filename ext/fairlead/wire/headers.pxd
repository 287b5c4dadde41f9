"""Header lines, in both directions; see headers.pyx."""

cdef class Name:
    cdef bytes sent
    cdef str spelt             # the same as text
    cdef str key               # in lower case; of all spellings of a name the same object
    cdef bytes line            # as a line begins
    cdef bint once             # there may be one
    cdef bint passes           # what lines was told when it was asked with these two
    cdef frozenset passed
    cdef str prefix

cdef class Headers:
    cdef list names            # in order
    cdef list values

    cdef Py_ssize_t find(self, str key, Py_ssize_t at=*) noexcept
    cdef bytes raw(self, str key)
    cpdef str value(self, str key)
    cpdef bint has(self, str key) noexcept
    cpdef bint is_repeated(self, str key) noexcept
    cpdef bytes lines(self, frozenset passed, str prefix, str ours)
    cdef add(self, bytes sent, bytes value)
