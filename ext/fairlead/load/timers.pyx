"""One due time per item, and which is next.

Promise: set, clear and pop in O(log n), all memory at the start. An item has at most one time.
"""

from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport calloc, free


cdef bint timers_init(Timers *timers, int32_t capacity) noexcept:
    """False: no memory; timers_free takes what there is."""
    cdef int32_t item
    timers.size = 0
    timers.capacity = capacity
    timers.due_ns = <int64_t *> calloc(<size_t> capacity, sizeof(int64_t))
    timers.position = <int32_t *> calloc(<size_t> capacity, sizeof(int32_t))
    timers.heap = <int32_t *> calloc(<size_t> capacity, sizeof(int32_t))
    if timers.due_ns == NULL or timers.position == NULL or timers.heap == NULL:
        return False
    for item in range(capacity):
        timers.position[item] = -1
    return True


cdef void timers_free(Timers *timers) noexcept:
    free(timers.due_ns)
    free(timers.position)
    free(timers.heap)
    timers.due_ns = NULL
    timers.position = NULL
    timers.heap = NULL


cdef inline void put(Timers *timers, int32_t place, int32_t item) noexcept nogil:
    timers.heap[place] = item
    timers.position[item] = place


cdef void sift(Timers *timers, int32_t place, int32_t item) noexcept nogil:
    """Find the place of an item, of which a hole at this place is near."""
    cdef int64_t due = timers.due_ns[item]
    cdef int32_t other
    while place > 0:
        other = timers.heap[(place - 1) >> 1]
        if timers.due_ns[other] <= due:
            break
        put(timers, place, other)
        place = (place - 1) >> 1
    while 2 * place + 1 < timers.size:
        other = 2 * place + 1
        if other + 1 < timers.size and timers.due_ns[timers.heap[other + 1]] < timers.due_ns[timers.heap[other]]:
            other += 1
        if timers.due_ns[timers.heap[other]] >= due:
            break
        put(timers, place, timers.heap[other])
        place = other
    put(timers, place, item)


cdef void timers_set(Timers *timers, int32_t item, int64_t due_ns) noexcept nogil:
    timers.due_ns[item] = due_ns
    if timers.position[item] < 0:
        timers.size += 1
        sift(timers, timers.size - 1, item)
    else:
        sift(timers, timers.position[item], item)


cdef void timers_clear(Timers *timers, int32_t item) noexcept nogil:
    cdef int32_t place = timers.position[item]
    cdef int32_t last
    if place < 0:
        return
    timers.position[item] = -1
    timers.size -= 1
    last = timers.heap[timers.size]
    if last != item:
        sift(timers, place, last)


cdef int32_t timers_pop(Timers *timers, int64_t now) noexcept nogil:
    cdef int32_t item
    if timers_next_ns(timers) > now:
        return -1
    item = timers.heap[0]
    timers_clear(timers, item)
    return item


def replayed(int capacity, list operations not None):
    cdef Timers timers
    cdef list popped = []
    try:
        if not timers_init(&timers, capacity):
            raise MemoryError
        for item, due_ns in operations:
            if item is None:
                popped.append(timers_pop(&timers, due_ns))
            elif not 0 <= item < capacity:
                raise IndexError(f"item is {item}: it must be in 0..{capacity - 1}")
            elif due_ns is None:
                timers_clear(&timers, item)
            else:
                timers_set(&timers, item, due_ns)
    finally:
        timers_free(&timers)
    return popped
