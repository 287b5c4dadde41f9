"""The place in line that a client is told.

Promise: how many turns of its pool it is until the request is served, if everybody who is eligible now stays so; never
more than wait in the pool. A first-come-first-served estimate would tell a light user, who is served next, to go away.
"""

from fairlead.core.shares cimport READY, ROOT, FairQueue, Level, Share
from fairlead.core.slots cimport NIL, Request
from libc.stdint cimport int32_t, int64_t


cdef int64_t place_above(FairQueue *queue, int32_t index, int64_t k) noexcept nogil:
    """Which turn of its parent's is the k-th turn of a share?"""
    cdef Share *share = &queue.shares[index]
    cdef Level *level = &queue.levels[share.parent]
    cdef int64_t weight = level.ready_weight
    cdef int64_t all = queue.shares[share.parent].waiting
    cdef int32_t child = level.child
    if level.strict:
        while child != NIL:
            if queue.levels[child].rank < queue.levels[index].rank:
                k += queue.shares[child].waiting
            child = queue.levels[child].sibling
        return k
    if share.where != READY:
        weight += share.weight
    # In two parts, so that no product can overflow.
    if weight // share.weight >= all:
        return all
    return min(all, k * (weight // share.weight) + (k * (weight % share.weight) + share.weight - 1) // share.weight)


cdef int64_t queue_position(FairQueue *queue, int32_t slot) noexcept nogil:
    """Place in line: k turns of this user's, each of which lets everybody else have its weight's worth of turns; the
    same again for the group that it is in, up to its pool."""
    cdef Request *requests = queue.slots.requests
    cdef Share *share = &queue.shares[requests[slot].flow]
    cdef int64_t k = 1
    cdef int32_t index = requests[slot].flow
    cdef int32_t before = slot
    if share.tail == slot:
        k = share.waiting
    else:
        while before != share.head:
            k += 1
            before = requests[before].previous
    while queue.shares[index].parent != ROOT:
        k = place_above(queue, index, k)
        index = queue.shares[index].parent
    return k
