"""Request ids; see ids.pyx."""

from fairlead.wire.headers cimport Headers

cpdef str sane_request_id(str value)
cpdef str make_request_id()
cdef str request_id_of(Headers headers)
