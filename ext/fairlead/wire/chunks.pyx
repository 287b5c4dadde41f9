"""Where a chunked body ends, and what is in it.

Promise: the cost is proportional to the bytes, whatever they are and however they are cut, and not one byte behind the
body's end is looked at. What passes is read the same way by every HTTP program: sizes of hex digits, lines that end
with CR LF, extensions of plain words (which mean nothing here), no trailers.

Theory. llhttp tells nobody where in a piece the body has ended, and reads on into what follows. So no chunk is llhttp's
to read; bodies of known length are counted by the reader itself.

    state      the next byte is                                    it is left by
    SIZE       a digit of a chunk's size                           ";", CR
    EXTENSION  of name, name=value, each of at least a letter      CR
    SIZE_LF    the LF behind it                                    LF: DATA, or END_CR where the size was 0
    DATA       the chunk's                                         its last one
    DATA_CR, DATA_LF  the line end behind the data                 LF: SIZE
    END_CR, END_LF    the line end behind the last chunk           LF: done
"""

from fairlead.wire.headers import Refused

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

cdef enum:
    SIZE
    EXTENSION
    SIZE_LF
    DATA
    DATA_CR
    DATA_LF
    END_CR
    END_LF

cdef enum:
    CR = 13
    LF = 10
    LINE_MAX = 256          # bytes of a size with its extensions
    DIGITS_MAX = 15         # what has more is beyond every limit


cdef Py_ssize_t broken(str what) except -1:
    raise Refused("bad_request", f"the body's framing is broken: {what}")


cdef int hex_value(int byte) noexcept:
    """-1: it is no hex digit."""
    if 48 <= byte <= 57:
        return byte - 48
    byte |= 32
    return byte - 87 if 97 <= byte <= 102 else -1


cdef bint is_plain(int byte) noexcept:
    """A letter, a digit, or one of - . _"""
    return 48 <= byte <= 57 or 97 <= (byte | 32) <= 122 or byte == 45 or byte == 46 or byte == 95


cdef class Chunks:
    """Reads one body. got: how much of it there is; done: it has ended."""

    cdef Py_ssize_t feed(self, bytes data, Py_ssize_t at, write) except -1:
        """Read what is in data from at on. Up to where it was the body's; write gets what is in it, unless it is
        None. Raises Refused."""
        cdef const unsigned char *bytes_ = <const unsigned char *> PyBytes_AS_STRING(data)
        cdef Py_ssize_t length = PyBytes_GET_SIZE(data), end
        while at < length and not self.done:
            if self.state != DATA:
                self.take(bytes_[at])
                at += 1
                continue
            end = at + min(self.left, length - at)
            if write is not None:
                write(data[at:end])
            self.got += end - at
            self.left -= end - at
            at = end
            if self.left == 0:
                self.state = DATA_CR
        return at

    cdef bint take(self, int byte) except -1:
        """A byte that is not data."""
        if self.state <= EXTENSION:
            self.take_size(byte)
        elif self.state == SIZE_LF:
            self.expect(byte, LF, DATA if self.left else END_CR)
        elif self.state == DATA_CR:
            self.expect(byte, CR, DATA_LF)
        elif self.state == DATA_LF:
            self.expect(byte, LF, SIZE)
            self.line = 0
            self.filled = False
        elif self.state == END_CR:
            if byte != CR:
                raise Refused("bad_request", "the body has trailers: send what they say as headers")
            self.state = END_LF
        else:
            self.expect(byte, LF, END_LF)
            self.done = True
        return True

    cdef bint take_size(self, int byte) except -1:
        """A byte of the line before a chunk."""
        cdef int value = hex_value(byte) if self.state == SIZE else -1
        self.line += 1
        if value >= 0:
            if self.line > DIGITS_MAX:
                broken("a chunk's size is too long")
            self.left = self.left * 16 + value
            self.filled = True
        elif self.state == EXTENSION and is_plain(byte):
            if self.line > LINE_MAX:
                broken(f"a chunk's extensions are longer than {LINE_MAX} bytes")
            self.filled = True
        elif not self.filled:
            broken("a chunk has no size, or an extension no name or value")
        elif byte == CR:
            self.state = SIZE_LF
        elif byte == 59:  # ;
            self.state = EXTENSION
            self.filled = self.named = False
        elif byte == 61 and self.state == EXTENSION and not self.named:  # =
            self.named = True
            self.filled = False
        else:
            broken("a chunk's size is not hexadecimal, or an extension no plain word")
        return True

    cdef bint expect(self, int byte, int wanted, int then) except -1:
        if byte != wanted:
            broken("a chunk is longer than it says, or a line does not end with CR LF")
        self.state = then
        return True
