"""One client's requests as llhttp reads them; see reader.pyx."""

from fairlead.wire.chunks cimport Chunks
from fairlead.wire.headers cimport Headers
from libc.stdint cimport int64_t

cdef class Reader:
    cdef object parser
    cdef bytes held            # what was read and not looked at, from ``at`` on
    cdef Py_ssize_t at
    cdef Py_ssize_t searched   # up to where held has no end of a head
    cdef bytes url             # the target as it came
    cdef Headers headers
    cdef bytes method
    cdef int64_t length        # of the body, where it is not chunked
    cdef int64_t got           # of it
    cdef object pieces         # of a body that comes in several reads: a BytesIO
    cdef Chunks chunks         # of a chunked body
    cdef int count             # of headers
    cdef int minor             # HTTP/1.minor
    cdef bint chunked
    cdef bint expects          # 100-continue
    cdef bint keep_alive
    cdef bint upgrade
    cdef bint head_done
    cdef bint complete         # next_piece has given the last

    cdef put(self, bytes data)
    cdef Py_ssize_t pending(self)
    cdef bint begun(self)
    cdef consume(self, Py_ssize_t end)
    cdef bytes next_head(self, Py_ssize_t head_max)
    cdef bytes next_body(self, int64_t body_max)
    cdef bytes next_sized(self)
    cdef bytes next_chunked(self, int64_t body_max)
    cdef bytes joined(self)
    cdef bytes next_piece(self)
    cdef void forget(self)
    cdef void renew(self)
    cdef void close(self)
    cdef read(self, bytes head)
    cdef refuse_version(self, bytes line)
    cdef guard(self)
    cdef feed(self, body)

cdef too_large(str what, int64_t limit)
