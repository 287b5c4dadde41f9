"""A fixed pool of requests, named by handles that can't be confused.

Promise: a handle names one request and never another one. Each slot has a generation that moves on when the request in
it ends, so an old handle finds nothing: cancelling twice, or finishing what has expired, changes nothing.

Confession: a generation has 31 bits and skips 0. A handle that is kept for 2**31 - 1 further requests through the same
slot would be valid again; at 100,000 requests a second through one single slot that is six hours, and slots are reused
last in, first out. Nobody keeps a handle of a request that has ended.
"""

from fairlead.core.memory cimport CHECK, core_calloc, core_free
from libc.stdint cimport int32_t

cdef bint slots_init(Slots *slots, int32_t request_max) noexcept:
    cdef int32_t i
    slots.requests = <Request *> core_calloc(request_max, sizeof(Request))
    if slots.requests == NULL:
        return False
    slots.request_max = request_max
    for i in range(request_max):
        slots.requests[i].generation = 1
        slots.requests[i].next = i + 1
    slots.requests[request_max - 1].next = NIL
    slots.free_head = 0
    slots.used = 0
    return True


cdef void slots_free(Slots *slots) noexcept:
    core_free(slots.requests)
    slots.requests = NULL


cdef int32_t slots_take(Slots *slots) noexcept nogil:
    """A free slot, state still FREE, or NIL."""
    cdef int32_t slot = slots.free_head
    if slot != NIL:
        slots.free_head = slots.requests[slot].next
        slots.used += 1
    return slot


cdef void slots_give(Slots *slots, int32_t slot) noexcept nogil:
    cdef Request *request = &slots.requests[slot]
    CHECK(request.state != FREE)
    request.state = FREE
    request.generation = (request.generation + 1) & 0x7fffffff
    if request.generation == 0:
        request.generation = 1
    request.next = slots.free_head
    slots.free_head = slot
    slots.used -= 1
