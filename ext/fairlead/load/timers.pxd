"""One due time per item, and which is next: an indexed binary heap; bodies in timers.pyx."""

from libc.stdint cimport INT64_MAX, int32_t, int64_t

cdef struct Timers:
    int64_t *due_ns     # by item
    int32_t *position   # item -> place in heap, or -1: it has no time
    int32_t *heap       # items; no child is due before its parent
    int32_t size
    int32_t capacity

cdef bint timers_init(Timers *timers, int32_t capacity) noexcept
cdef void timers_free(Timers *timers) noexcept
cdef void timers_set(Timers *timers, int32_t item, int64_t due_ns) noexcept nogil
cdef void timers_clear(Timers *timers, int32_t item) noexcept nogil

# The item that is due by now, with its time taken away; -1: none is.
cdef int32_t timers_pop(Timers *timers, int64_t now) noexcept nogil

cdef inline int64_t timers_next_ns(Timers *timers) noexcept nogil:
    return timers.due_ns[timers.heap[0]] if timers.size > 0 else INT64_MAX
