"""Where a chunked body ends; see chunks.pyx."""

from libc.stdint cimport int64_t

cdef class Chunks:
    cdef int state
    cdef int line              # bytes of the size line so far
    cdef bint filled           # the word of it that is being read has begun
    cdef bint named            # the extension has its "="
    cdef readonly bint done    # the body has ended
    cdef int64_t left          # bytes of the chunk's data that are still to come
    cdef int64_t got           # bytes of data so far

    cdef Py_ssize_t feed(self, bytes data, Py_ssize_t at, write) except -1
    cdef bint take(self, int byte) except -1
    cdef bint take_size(self, int byte) except -1
    cdef bint expect(self, int byte, int wanted, int then) except -1
