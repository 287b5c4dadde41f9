"""Request ids: the client's own, or new ones.

Promise: an id can stand in any log and header, and no two new ones are the same, whichever processes made them: each
is 128 bits from the system's random numbers, which are drawn many at a time.
"""

import os

from fairlead.wire.headers import key_of

from fairlead.wire.headers cimport Headers

cdef enum:
    LENGTH_MAX = 128
    ID_BYTES = 16
    DRAWN_BYTES = 256 * ID_BYTES

cdef str REQUEST_ID = key_of("X-Request-Id")
cdef bytes HEX = b"0123456789abcdef"

cdef bytes drawn = b""      # random bytes; used up to there
cdef Py_ssize_t used = 0


cdef bint is_sane(str value) noexcept:
    cdef Py_UCS4 each
    if not 0 < len(value) <= LENGTH_MAX:
        return False
    for each in value:
        if not (u"a" <= each <= u"z" or u"A" <= each <= u"Z" or u"0" <= each <= u"9" or each in u"._-"):
            return False
    return True


cpdef str sane_request_id(str value):
    return value if value is not None and is_sane(value) else None


cpdef str make_request_id():
    global drawn, used
    cdef char text[2 * ID_BYTES]
    cdef unsigned char byte
    cdef Py_ssize_t i
    if used == len(drawn):
        drawn = os.urandom(DRAWN_BYTES)
        used = 0
    for i in range(ID_BYTES):
        byte = drawn[used + i]
        text[2 * i] = HEX[byte >> 4]
        text[2 * i + 1] = HEX[byte & 15]
    used += ID_BYTES
    return text[:2 * ID_BYTES].decode("ascii")


cdef str request_id_of(Headers headers):
    """The client's own if there are headers and it is sane, else a new one."""
    return (sane_request_id(headers.value(REQUEST_ID)) if headers is not None else None) or make_request_id()


def forget_drawn():
    """A copy of this process must not hand out the same ones."""
    global used
    used = len(drawn)


os.register_at_fork(after_in_child=forget_drawn)
