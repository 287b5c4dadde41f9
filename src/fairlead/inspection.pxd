# What is compiled of inspection.py: the attributes of its class and its functions are C's, the code is the Python there.

cimport cython

from fairlead.wire.jsonscan cimport count_keys
from libc.stdint cimport int64_t

cdef class Facts:
    cdef public str path
    cdef public str model
    cdef public bint stream
    cdef public int64_t width
    cdef public object max_tokens
    cdef public str body_user
    cdef public int64_t size_bytes
    cdef public int64_t text_bytes

@cython.locals(fields=dict, model=str, stream=bint, width=int64_t, text_bytes=int64_t)
cpdef Facts inspect(str path, str content_type, bytes body, int64_t width_max, bint count_text=*)
cdef dict _parse_object(bytes body)
cdef str _model(value)
cdef bint _stream(value) except -1
@cython.locals(number=int64_t)
cdef _integer(dict fields, str name, int64_t low, int64_t high, str limit=*)
@cython.locals(sequences=int64_t, prompts=int64_t)
cdef int64_t _width(str path, dict fields, int64_t width_max) except -1
cdef int64_t _prompt_count(prompt) except -1
