"""An answer on its way to a client; see answer.pyx."""

cdef class Answer:
    cdef object transport
    cdef object common
    cdef str path
    cdef str request_id
    cdef list out               # not written yet
    cdef list chunk             # of its body
    cdef int minor              # the client speaks HTTP/1.minor
    cdef bint keep              # the connection is to take another request
    cdef bint chunked

    cdef write_head(self, int status, bytes lines, bint sized, bint last)
    cdef write_error(self, error)
    cdef bytes encoded(self, int status, bytes lines, bytes framing)
    cdef write_end(self)

    cpdef flush(self)
