"""The keys of a JSON object as they were written, duplicates included.

Promise: one pass over the body, O(bytes), no read outside it whatever the bytes are, and no stack that grows with
nesting. What it returns for a body that no JSON parser accepts means nothing.

Theory. In valid JSON a string at depth 1 is a key exactly if it is the first thing after the opening brace or after a
comma at depth 1. So a depth counter and one flag are the whole state. Strings are skipped with memchr, as nearly all
bytes of a request stand in them; the quote it finds ends the string unless an odd number of backslashes stands in
front of it. A backslash is counted for the quote right behind its run only, so this stays linear.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.string cimport memchr


cdef const char *string_end(const char *start, const char *end) noexcept nogil:
    """The closing quote of the string whose content starts at start, or end if it never closes."""
    cdef const char *quote = start
    cdef const char *run
    while quote < end:
        quote = <const char *> memchr(quote, b'"', <size_t> (end - quote))
        if quote == NULL:
            return end
        run = quote
        while run > start and run[-1] == b"\\":
            run -= 1
        if (quote - run) & 1 == 0:
            return quote
        quote += 1
    return end


def top_level_keys(bytes body not None, /):
    cdef list keys = []
    scan(body, keys)
    return keys


cpdef Py_ssize_t count_keys(bytes body) except -1:
    """How many top_level_keys would give."""
    return scan(body, None)


cdef Py_ssize_t scan(bytes body, list keys) except -1:
    """Count the keys, and put them into the list if there is one."""
    cdef const char *at = PyBytes_AS_STRING(body)
    cdef const char *end = at + len(body)  # which None has not
    cdef const char *close
    cdef Py_ssize_t depth = 0
    cdef bint key_is_next = False
    cdef char byte
    cdef Py_ssize_t count = 0
    while at < end:
        byte = at[0]
        at += 1
        if byte == b'"':
            close = string_end(at, end)
            if key_is_next and close < end:
                count += 1
                if keys is not None:
                    keys.append(PyBytes_FromStringAndSize(at, close - at))
            key_is_next = False
            if depth == 0 or close == end:
                break
            at = close + 1
        elif byte == b"{":
            key_is_next = depth == 0
            depth += 1
        elif byte == b"[":
            if depth == 0:
                break
            depth += 1
        elif byte == b"}" or byte == b"]":
            depth -= 1
            if depth <= 0:
                break
        elif byte == b"," and depth == 1:
            key_is_next = True
    return count
