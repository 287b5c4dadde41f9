"""Numbers in the marks of requests and answers, written in place and read."""

from libc.stdint cimport int64_t

cdef enum:
    DIGITS_MAX = 18  # of a TIME; more might not fit int64

cdef inline void write_digits(char *to, int count, int64_t value) noexcept nogil:
    # Not negative; with leading zeros.
    while count > 0:
        count -= 1
        to[count] = <char> (c"0" + value % 10)
        value //= 10

cdef inline int64_t read_digits(const char **at, const char *end) noexcept nogil:
    # 0 if there are none; at moves behind them and what ended them.
    cdef int64_t value = 0
    cdef int count = 0
    while at[0] < end and b"0" <= at[0][0] <= b"9" and count < DIGITS_MAX:
        value = value * 10 + (at[0][0] - c"0")
        at[0] += 1
        count += 1
    at[0] += at[0] < end
    return value
