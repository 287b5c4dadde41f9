"""What the answers to a benchmark's requests are worth; bodies in judge.pyx."""

from fairlead.load.client cimport Connection, Load

# Look at what has come of a body, and take it. Leaves less than half of the buffer's size lying.
cdef void take_lines(Load *load, Connection *one) noexcept nogil
cdef void take_body(Load *load, Connection *one) noexcept nogil

# The fault of an answer that has ended, or -1.
cdef int verdict(Load *load, Connection *one) noexcept nogil
