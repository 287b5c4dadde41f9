"""Users and their flows: a bounded table from which nothing is lost that matters.

A flow is a user's counter in one pool. It exists while it has requests or debt: with nothing waiting, nothing
running and start <= virtual time it says no more than a new one would, and is freed at once; with debt it stays in
its pool's idle heap until virtual time has passed it or the pool's busy period ends. So users may come and go by
the million. The table has more places than there can be requests; when it is full all the same, the idle flow that
owes least is forgotten.

A user exists while it has a flow. It carries what counts over all pools: running and waiting requests, and the limit.
Users are found by their 64-bit key in a hash table with open addressing, linear probing and backward-shift deletion.
"""

from fairlead.core.crowd cimport crowd_update
from fairlead.core.heap cimport heap_push, heap_remove, heap_top
from fairlead.core.memory cimport CHECK
from fairlead.core.shares cimport IDLE, NOWHERE, READY, ROOT, FairQueue, Level, Share, User, user_refresh
from fairlead.core.slots cimport NIL
from libc.stdint cimport int32_t, uint32_t, uint64_t


cdef inline uint32_t table_home(FairQueue *queue, uint64_t key) noexcept nogil:
    # Fibonacci hashing: the upper half of the product depends on all bits of the key.
    return <uint32_t> ((key * <uint64_t> 0x9E3779B97F4A7C15) >> 32) & queue.table_mask


cdef int32_t user_find(FairQueue *queue, uint64_t key) noexcept nogil:
    cdef uint32_t place = table_home(queue, key)
    while queue.table[place] != 0:  # ends: at most half of the table is in use
        if queue.users[queue.table[place] - 1].key == key:
            return queue.table[place] - 1
        place = (place + 1) & queue.table_mask
    return NIL


cdef int32_t user_add(FairQueue *queue, uint64_t key) noexcept nogil:
    cdef int32_t index = queue.user_free
    cdef User *user = &queue.users[index]
    cdef uint32_t place = table_home(queue, key)
    CHECK(index != NIL)  # there are as many users as flows, and each has a flow
    queue.user_free = user.flows
    while queue.table[place] != 0:
        place = (place + 1) & queue.table_mask
    queue.table[place] = index + 1
    user.key = key
    queue.sequence += 1
    user.stamp = queue.sequence
    user.running = user.running_max = user.waiting = 0
    user.waiting_bytes = 0
    user.weight = 1
    user.flows = NIL
    queue.user_count += 1
    return index


cdef void user_forget(FairQueue *queue, int32_t index) noexcept nogil:
    cdef User *user = &queue.users[index]
    cdef uint32_t hole = table_home(queue, user.key)
    cdef uint32_t place, home
    CHECK(user.flows == NIL and user.running == 0 and user.waiting == 0)
    while queue.table[hole] != index + 1:
        hole = (hole + 1) & queue.table_mask
    # Close the hole: an entry may move up into it unless its home lies between the hole and where it is.
    place = hole
    while True:
        place = (place + 1) & queue.table_mask
        if queue.table[place] == 0:
            break
        home = table_home(queue, queue.users[queue.table[place] - 1].key)
        if ((place - home) & queue.table_mask) >= ((place - hole) & queue.table_mask):
            queue.table[hole] = queue.table[place]
            hole = place
    queue.table[hole] = 0
    user.flows = queue.user_free
    queue.user_free = index
    queue.user_count -= 1


cdef int32_t flow_find(FairQueue *queue, int32_t user, int32_t parent) noexcept nogil:
    cdef int32_t index = queue.users[user].flows
    while index != NIL and queue.shares[index].parent != parent:  # at most one flow a pool
        index = queue.shares[index].user_next
    return index


cdef void flow_forget(FairQueue *queue, int32_t index) noexcept nogil:
    cdef Share *share = &queue.shares[index]
    cdef User *user = &queue.users[share.user]
    CHECK(share.where == NOWHERE and share.waiting == 0 and share.running == 0)
    if share.user_previous == NIL:
        user.flows = share.user_next
    else:
        queue.shares[share.user_previous].user_next = share.user_next
    if share.user_next != NIL:
        queue.shares[share.user_next].user_previous = share.user_previous
    if user.flows == NIL:
        user_forget(queue, share.user)
    share.parent = NIL
    share.user_next = queue.flow_free
    queue.flow_free = index
    queue.flow_count -= 1


cdef void forget_idle(FairQueue *queue, int32_t parent) noexcept nogil:
    """Free the idle flow of a level that owes least."""
    cdef Level *level = &queue.levels[parent]
    cdef int32_t index = heap_top(&level.idle).item
    heap_remove(&level.idle, index)
    queue.shares[index].where = NOWHERE
    flow_forget(queue, index)


cdef void make_room(FairQueue *queue, int32_t parent) noexcept nogil:
    """The table is full of flows, more than there can be requests: some are idle. The one that owes least goes."""
    cdef int32_t level = parent
    if queue.levels[level].idle.size == 0:
        level = 0
        while queue.levels[level].idle.size == 0:
            level += 1
            CHECK(level < queue.level_max)
    forget_idle(queue, level)


cdef int32_t flow_obtain(FairQueue *queue, int32_t user, uint64_t key, int32_t parent) noexcept nogil:
    """The flow of a user in a pool, made if need be: at the present, with the limits the user had.

    user: what user_find says of key.
    """
    cdef int32_t index, previous, following
    cdef Share *share
    if user != NIL:
        index = flow_find(queue, user, parent)
        if index != NIL:
            return index
    if queue.flow_free == NIL:
        make_room(queue, parent)
        user = user_find(queue, key)  # it may have been this user's last flow
    if user == NIL:
        user = user_add(queue, key)
    index = queue.flow_free
    share = &queue.shares[index]
    queue.flow_free = share.user_next
    queue.flow_count += 1
    share.start = queue.levels[parent].virtual_time
    share.stamp = 0
    share.parent = parent
    share.weight = 1
    share.waiting = share.running = 0
    share.head = share.tail = NIL
    share.user = user
    share.where = NOWHERE
    previous = NIL
    following = queue.users[user].flows
    while following != NIL and queue.shares[following].parent < parent:
        previous = following
        following = queue.shares[following].user_next
    share.user_previous = previous
    share.user_next = following
    if previous == NIL:
        queue.users[user].flows = index
    else:
        queue.shares[previous].user_next = index
    if following != NIL:
        queue.shares[following].user_previous = index
    return index


cdef void flow_configure(FairQueue *queue, int32_t flow, int32_t weight, int32_t running_max) noexcept nogil:
    cdef Share *share = &queue.shares[flow]
    cdef User *user = &queue.users[share.user]
    if share.weight != weight:
        if share.where == READY:
            queue.levels[share.parent].ready_weight += weight - share.weight
        share.weight = weight
    if user.weight != weight:
        if user.waiting > 0:
            queue.crowd.waiting_weight += weight - user.weight
        user.weight = weight
        if queue.crowd.active and user.waiting > 0:
            crowd_update(queue, share.user)
    if user.running_max != running_max:
        user.running_max = running_max
        user_refresh(queue, share.user)


cdef void level_reset(FairQueue *queue, int32_t index) noexcept nogil:
    """Nothing waits or runs below a level: its busy period is over, all debts with it."""
    cdef Level *level = &queue.levels[index]
    cdef int32_t child = level.child
    while level.idle.size > 0:
        forget_idle(queue, index)
    level.virtual_time = 0
    while child != NIL:  # ends: the levels below one level
        queue.shares[child].start = 0
        child = queue.levels[child].sibling


cdef void flow_settle(FairQueue *queue, int32_t flow) noexcept nogil:
    """After a request of a flow has ended: if it was the last, keep the flow only for what it owes."""
    cdef Share *share = &queue.shares[flow]
    cdef int32_t parent = share.parent
    cdef Level *level = &queue.levels[parent]
    if share.waiting > 0 or share.running > 0:
        return
    if share.start <= level.virtual_time or (
            queue.shares[parent].waiting == 0 and queue.shares[parent].running == 0):
        flow_forget(queue, flow)
    elif share.where != IDLE:
        share.where = IDLE
        heap_push(&level.idle, share.start, share.stamp, flow)
    while queue.shares[parent].waiting == 0 and queue.shares[parent].running == 0:
        level_reset(queue, parent)
        if parent == ROOT:
            break
        parent = queue.shares[parent].parent
