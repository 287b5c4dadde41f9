"""Who gives way when the waiting room is full: the user furthest above its share of it.

Promise. A user whose part of the waiting room is below its share is never refused for want of room, whatever the
others do: its share is room x weight / (sum of the weights of all users with waiting requests, itself included). If
the room is full and somebody is below its share, then somebody else is above, for the shares add up to the room.

Theory. "Furthest above" in proportion: the user with the largest waiting / weight, or bytes / weight. That needs no
sum, so one arrival or departure changes one user's key and nobody else's, and a heap will do. The heaps are kept
only while it is crowded: from the first time that somebody has to give way until nothing waits any more. A router
that never fills up never pays for them.

Of its user's requests the newest goes, which has waited least. Ties go to the user that came to the table last.
"""

from fairlead.core.heap cimport (
    Entry, heap_at, heap_fault, heap_init, heap_push, heap_remove, heap_top, heap_update, page_table_length, pages_free,
    pages_init,
)
from fairlead.core.memory cimport core_calloc, core_free
from fairlead.core.shares cimport Crowd, FairQueue, User
from fairlead.core.slots cimport NIL, Request
from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.string cimport memset

cdef extern from *:
    ctypedef long long int128 "__int128"


cdef bint crowd_init(FairQueue *queue, int64_t user_max) noexcept:
    """False: no memory; crowd_free takes what there is."""
    cdef Crowd *crowd = &queue.crowd
    cdef int32_t page_max = page_table_length(user_max)
    crowd.position = <int32_t *> core_calloc(2 * user_max, sizeof(int32_t))
    crowd.page_tables = <Entry **> core_calloc(2 * <int64_t> page_max, sizeof(Entry *))
    if crowd.position == NULL or crowd.page_tables == NULL or not pages_init(&crowd.pages, 2 * user_max, 2):
        return False
    memset(crowd.position, 0xff, 2 * user_max * sizeof(int32_t))
    heap_init(&crowd.by_count, &crowd.pages, crowd.page_tables, page_max, crowd.position)
    heap_init(&crowd.by_bytes, &crowd.pages, crowd.page_tables + page_max, page_max, crowd.position + user_max)
    return True


cdef void crowd_free(FairQueue *queue) noexcept:
    core_free(queue.crowd.position)
    core_free(queue.crowd.page_tables)
    pages_free(&queue.crowd.pages)


cdef inline int64_t count_key(User *user) noexcept nogil:
    # Smallest first. At most 2**25 requests wait, so this fits; distinct fractions stay distinct up to weight 2**18.
    return -((<int64_t> user.waiting << 36) // user.weight)


cdef inline int64_t bytes_key(User *user) noexcept nogil:
    cdef int64_t size_bytes = user.waiting_bytes
    if size_bytes >= <int64_t> 1 << 43:
        size_bytes = (<int64_t> 1 << 43) - 1
    return -((size_bytes << 20) // user.weight)


cdef void crowd_begin(FairQueue *queue) noexcept nogil:
    """Somebody must give way: from now on keep order. O(users x log) once; at most as many arrived before."""
    cdef int32_t index
    if queue.crowd.active:
        return
    queue.crowd.active = True
    for index in range(queue.level_max, queue.share_max):
        if queue.shares[index].parent != NIL and queue.shares[index].waiting > 0:
            crowd_update(queue, queue.shares[index].user)


cdef void crowd_update(FairQueue *queue, int32_t index) noexcept nogil:
    """A user's waiting requests or weight have changed, while it is crowded."""
    cdef Crowd *crowd = &queue.crowd
    cdef User *user = &queue.users[index]
    cdef uint64_t tie = ~user.stamp
    if user.waiting == 0:
        heap_remove(&crowd.by_count, index)
        heap_remove(&crowd.by_bytes, index)
    elif crowd.by_count.position[index] < 0:
        heap_push(&crowd.by_count, count_key(user), tie, index)
        heap_push(&crowd.by_bytes, bytes_key(user), tie, index)
    else:
        heap_update(&crowd.by_count, count_key(user), tie, index)
        heap_update(&crowd.by_bytes, bytes_key(user), tie, index)
    if crowd.by_count.size == 0:
        crowd.active = False


cdef bint crowd_is_below_share(FairQueue *queue, int32_t user, int32_t weight, int64_t size_bytes,
                               int64_t waiting_max, int64_t bytes_max, bint by_bytes) noexcept nogil:
    """May others be asked to give way for a newcomer of this user?

    By count: fewer of its requests wait than its share. By bytes: with the newcomer it has no more than its share.
    """
    cdef int64_t total = queue.crowd.waiting_weight + weight
    cdef int64_t waiting = 0
    if user != NIL and queue.users[user].waiting > 0:
        total -= queue.users[user].weight
        waiting = queue.users[user].waiting
        size_bytes += queue.users[user].waiting_bytes
    if by_bytes:
        return <int128> size_bytes * total <= <int128> bytes_max * weight
    return <int128> waiting * total < <int128> waiting_max * weight


cdef int32_t crowd_victim(FairQueue *queue, bint by_bytes) noexcept nogil:
    """The newest waiting request of the user furthest above its share. Only while something waits."""
    cdef int32_t user = heap_top(&queue.crowd.by_bytes if by_bytes else &queue.crowd.by_count).item
    cdef Request *requests = queue.slots.requests
    cdef int32_t flow = queue.users[user].flows
    cdef int32_t newest = NIL
    cdef int32_t tail
    while flow != NIL:
        tail = queue.shares[flow].tail
        if tail != NIL and (newest == NIL or requests[tail].order > requests[newest].order):
            newest = tail
        flow = queue.shares[flow].user_next
    return newest


cdef const char *crowd_fault(FairQueue *queue) noexcept nogil:
    """What is wrong with the sums and the heaps, or NULL. O(shares)."""
    cdef Crowd *crowd = &queue.crowd
    cdef int64_t weight = 0
    cdef int32_t index, user, users = 0
    cdef const char *fault
    for index in range(queue.level_max, queue.share_max):
        if queue.shares[index].parent == NIL or queue.shares[index].user_previous != NIL:
            continue
        user = queue.shares[index].user
        if queue.users[user].waiting == 0:
            continue
        users += 1
        weight += queue.users[user].weight
        if crowd.active and (
                crowd.by_count.position[user] < 0 or crowd.by_bytes.position[user] < 0
                or heap_at(&crowd.by_count, crowd.by_count.position[user]).key != count_key(&queue.users[user])
                or heap_at(&crowd.by_bytes, crowd.by_bytes.position[user]).key != bytes_key(&queue.users[user])):
            return b"a user's part of the waiting room is not what its place says"
    if weight != crowd.waiting_weight:
        return b"the weights of the users with waiting requests do not add up"
    if crowd.page_tables == NULL:
        return NULL
    if crowd.by_count.size != (users if crowd.active else 0) or crowd.by_bytes.size != crowd.by_count.size:
        return b"the waiting room's heaps hold others than the users that wait"
    fault = heap_fault(&crowd.by_count)
    return fault if fault != NULL else heap_fault(&crowd.by_bytes)
