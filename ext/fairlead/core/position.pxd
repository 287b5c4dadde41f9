"""The place in line of a waiting request; see position.pyx."""

from fairlead.core.shares cimport FairQueue
from libc.stdint cimport int32_t, int64_t

cdef int64_t queue_position(FairQueue *queue, int32_t slot) noexcept nogil
