"""Who is next: start-time fair queueing with one counter per user, over a tree of shares.

Promise. Between two users that both have requests waiting over an interval, the service they get in proportion to
their weights differs by at most one request of each (and the error of the cost estimates of what runs), whatever the
nodes do. A user that was away comes back at the present: it has saved nothing and owes only what it had not paid.

Theory. Every share (a user in a pool, and a pool under the root) has a virtual start c: the service it was charged so
far, divided by its weight. The eligible share with the smallest c goes next. Its parent's virtual time V becomes that
c, and then the request's cost / weight is added to c *before* the next pick, or one user would take all slots that are
freed in one turn. The true cost corrects c when the request ends. Because order depends only on what was charged in the
past, nobody needs to know how long the next request will run; and because V is taken from the shares themselves and not
from a clock, it does not matter how fast the nodes are. (SFQ: Goyal, Vin, Cheng 1996; for a server with several
requests at once: Jin, Chase, Kaur 2004.)

The one rule that prevents both hoarding and starvation: when a share *becomes* eligible, c = max(c, V). It is applied
in ``enter`` and nowhere else. V never decreases except back to 0, together with every c, when nothing waits or runs.

Time and weights are integers. c counts in 1/720720 of a cost unit, so cost / weight is exact for weights up to 16 and
rounded down by less than a unit for others; the correction is floor(actual) - floor(charged), so what a user has paid in
the end depends on its requests only and not on the path. When V passes ``rebase_at`` it is subtracted from everything.

The tree. A share below ``level_max`` has children, one from there on is a flow with a queue. Dispatch walks from the root
to a flow, always to the smallest (c, stamp), and charges every share on the way back, so each level is fair among its
own children. Now there are pools under the root and users under pools; a tier or a team is one more level between.
A pool is eligible while one of its users is and one of its nodes has room (``open``).

FIFO is the same tree with another key: the place in time of the oldest request below a share.

States of a share, and what holds in each:
  READY    eligible; in the parent's ready heap, key c (or place in time), position = its index there
  IDLE     a flow with nothing waiting, nothing running and c > V: kept only for its debt, in the parent's idle heap
  NOWHERE  not eligible: a user at its limit or with only running requests, or a pool without work or room
A flow with nothing waiting, nothing running and c <= V carries no information and is freed at once.
"""

from fairlead.core.heap cimport (
    Entry, Heap, heap_at, heap_fault, heap_init, heap_push, heap_remove, heap_shift_keys, heap_top, heap_update,
    page_table_length, pages_free, pages_init,
)
from fairlead.core.memory cimport CHECK, core_calloc, core_free
from fairlead.core.slots cimport NIL, RUNNING, WAITING, Request, Slots
from libc.stdint cimport INT32_MAX, int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memset


# Construction ---------------------------------------------------------------------------------------------------------

cdef bint queue_init(FairQueue *queue, Slots *slots, int64_t flow_max, int32_t level_max, bint fifo,
                     int64_t rebase_at) noexcept:
    """False: no memory; queue_free takes what there is."""
    cdef int64_t share_max = level_max + flow_max
    cdef int64_t i, table_size = 16
    cdef int32_t page_max = page_table_length(flow_max if flow_max > level_max else level_max)
    while table_size < 2 * flow_max:
        table_size *= 2
    if share_max > INT32_MAX or table_size > INT32_MAX:
        return False
    queue.shares = <Share *> core_calloc(share_max, sizeof(Share))
    queue.levels = <Level *> core_calloc(level_max, sizeof(Level))
    queue.users = <User *> core_calloc(flow_max, sizeof(User))
    queue.table = <int32_t *> core_calloc(table_size, sizeof(int32_t))
    queue.position = <int32_t *> core_calloc(share_max, sizeof(int32_t))
    queue.page_tables = <Entry **> core_calloc(2 * <int64_t> level_max * page_max, sizeof(Entry *))
    if (queue.shares == NULL or queue.levels == NULL or queue.users == NULL or queue.table == NULL
            or queue.position == NULL or queue.page_tables == NULL
            or not pages_init(&queue.pages, share_max, 2 * level_max)):
        return False
    queue.slots = slots
    queue.share_max = <int32_t> share_max
    queue.level_max = level_max
    queue.table_mask = <uint32_t> (table_size - 1)
    queue.fifo = fifo
    queue.rebase_at = rebase_at
    memset(queue.position, 0xff, share_max * sizeof(int32_t))
    for i in range(level_max):
        queue.shares[i].parent = NIL
        heap_init(&queue.levels[i].ready, &queue.pages, &queue.page_tables[2 * i * page_max], page_max, queue.position)
        heap_init(&queue.levels[i].idle, &queue.pages, &queue.page_tables[(2 * i + 1) * page_max], page_max,
                  queue.position)
    queue.flow_free = queue.user_free = NIL
    for i in range(flow_max - 1, -1, -1):
        queue.shares[level_max + i].parent = NIL
        queue.shares[level_max + i].user_next = queue.flow_free
        queue.flow_free = <int32_t> (level_max + i)
        queue.users[i].flows = queue.user_free
        queue.user_free = <int32_t> i
    queue.shares[ROOT].weight = 1
    queue.levels[ROOT].open = True
    return True


cdef void queue_free(FairQueue *queue) noexcept:
    core_free(queue.shares)
    core_free(queue.levels)
    core_free(queue.users)
    core_free(queue.table)
    core_free(queue.position)
    core_free(queue.page_tables)
    pages_free(&queue.pages)


# Shares becoming eligible, and ceasing to be --------------------------------------------------------------------------

cdef inline int64_t charge(int64_t cost, int32_t weight) noexcept nogil:
    return VIRTUAL_UNIT * cost if weight == 1 else VIRTUAL_UNIT * cost // weight


cdef inline bint flow_is_eligible(FairQueue *queue, Share *share) noexcept nogil:
    cdef User *user = &queue.users[share.user]
    return share.waiting > 0 and (user.running_max == 0 or user.running < user.running_max)


cdef inline bint level_is_eligible(Level *level) noexcept nogil:
    return level.ready.size > 0 and level.open


cdef inline int64_t ready_key(FairQueue *queue, int32_t index) noexcept nogil:
    if not queue.fifo:
        return queue.shares[index].start
    if index < queue.level_max:
        return heap_top(&queue.levels[index].ready).key
    return <int64_t> queue.slots.requests[queue.shares[index].head].order


cdef void rekey(FairQueue *queue, int32_t index) noexcept nogil:
    """A READY share's key may have changed; under FIFO so may those above it."""
    cdef Share *share
    while index != ROOT:
        share = &queue.shares[index]
        if share.where != READY:
            break
        heap_update(&queue.levels[share.parent].ready, ready_key(queue, index), share.stamp, index)
        if not queue.fifo:
            break
        index = share.parent


cdef void enter(FairQueue *queue, int32_t index) noexcept nogil:
    """A share becomes eligible: lift it to the present and let it compete; its parent may become eligible by it."""
    cdef Share *share = &queue.shares[index]
    cdef int32_t parent = share.parent
    cdef Level *level = &queue.levels[parent]
    CHECK(share.where == NOWHERE)
    if share.start < level.virtual_time:
        share.start = level.virtual_time
    queue.sequence += 1
    share.stamp = queue.sequence
    share.where = READY
    level.ready_weight += share.weight
    heap_push(&level.ready, ready_key(queue, index), share.stamp, index)
    if parent == ROOT:
        return
    if queue.shares[parent].where == READY:
        if queue.fifo:
            rekey(queue, parent)
    elif level_is_eligible(level):
        enter(queue, parent)


cdef void leave(FairQueue *queue, int32_t index) noexcept nogil:
    """A share ceases to be eligible; so may its parent."""
    cdef Share *share = &queue.shares[index]
    cdef int32_t parent = share.parent
    cdef Level *level = &queue.levels[parent]
    CHECK(share.where == READY)
    heap_remove(&level.ready, index)
    share.where = NOWHERE
    level.ready_weight -= share.weight
    if parent == ROOT or queue.shares[parent].where != READY:
        return
    if level.ready.size == 0:
        leave(queue, parent)
    elif queue.fifo:
        rekey(queue, parent)


cdef void user_refresh(FairQueue *queue, int32_t user) noexcept nogil:
    """A user's count of running requests or its limit has changed: let its flows in or out."""
    cdef int32_t index = queue.users[user].flows
    cdef Share *share
    cdef bint eligible
    while index != NIL:
        share = &queue.shares[index]
        eligible = flow_is_eligible(queue, share)
        if eligible and share.where != READY:
            enter(queue, index)
        elif not eligible and share.where == READY:
            leave(queue, index)
        index = share.user_next


# Levels ---------------------------------------------------------------------------------------------------------------

cdef void level_add(FairQueue *queue, int32_t level, int32_t parent, int32_t weight) noexcept nogil:
    cdef Share *share = &queue.shares[level]
    CHECK(share.parent == NIL and share.waiting == 0 and share.running == 0)
    share.parent = parent
    share.weight = weight
    share.start = queue.levels[parent].virtual_time
    share.stamp = 0
    share.where = NOWHERE
    queue.levels[level].virtual_time = 0
    queue.levels[level].open = False


cdef void level_remove(FairQueue *queue, int32_t level) noexcept nogil:
    """Only of a level with nothing waiting or running, which therefore has no flows either."""
    CHECK(queue.shares[level].waiting == 0 and queue.shares[level].running == 0)
    CHECK(queue.shares[level].where == NOWHERE and queue.levels[level].idle.size == 0)
    queue.shares[level].parent = NIL


cdef void level_set_open(FairQueue *queue, int32_t level, bint is_open) noexcept nogil:
    cdef Level *it = &queue.levels[level]
    if it.open == is_open:
        return
    it.open = is_open
    if queue.shares[level].where == READY:
        leave(queue, level)
    elif level_is_eligible(it):
        enter(queue, level)


# Users and flows ------------------------------------------------------------------------------------------------------

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
    user.running = user.running_max = user.waiting = 0
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


cdef void forget_idle(FairQueue *queue, Level *level) noexcept nogil:
    """Free the idle flow that owes least."""
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
    forget_idle(queue, &queue.levels[level])


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
    if user.running_max != running_max:
        user.running_max = running_max
        user_refresh(queue, share.user)


cdef void level_reset(FairQueue *queue, int32_t index) noexcept nogil:
    """Nothing waits or runs below a level: its busy period is over, all debts with it."""
    cdef Level *level = &queue.levels[index]
    cdef int32_t child
    while level.idle.size > 0:
        forget_idle(queue, level)
    level.virtual_time = 0
    for child in range(1, queue.level_max):
        if queue.shares[child].parent == index:
            queue.shares[child].start = 0


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


# Requests -------------------------------------------------------------------------------------------------------------

cdef inline void count(FairQueue *queue, int32_t index, int32_t waiting, int32_t running) noexcept nogil:
    """Add to the counts of a flow and of everything above it."""
    cdef User *user = &queue.users[queue.shares[index].user]
    user.waiting += waiting
    user.running += running
    while True:
        queue.shares[index].waiting += waiting
        queue.shares[index].running += running
        if index == ROOT:
            break
        index = queue.shares[index].parent


cdef inline void link_after(FairQueue *queue, Share *share, int32_t previous, int32_t slot) noexcept nogil:
    cdef Request *requests = queue.slots.requests
    cdef int32_t following = share.head if previous == NIL else requests[previous].next
    requests[slot].previous = previous
    requests[slot].next = following
    if previous == NIL:
        share.head = slot
    else:
        requests[previous].next = slot
    if following == NIL:
        share.tail = slot
    else:
        requests[following].previous = slot


cdef inline void unlink(FairQueue *queue, Share *share, int32_t slot) noexcept nogil:
    # A head's ``previous`` is not kept: the next in line is usually cold, and its turn is far away.
    cdef Request *requests = queue.slots.requests
    cdef Request *request = &requests[slot]
    if share.head == slot:
        share.head = request.next
        if request.next == NIL:
            share.tail = NIL
        return
    requests[request.previous].next = request.next
    if request.next == NIL:
        share.tail = request.previous
    else:
        requests[request.next].previous = request.previous


cdef inline void arrive(FairQueue *queue, int32_t flow) noexcept nogil:
    """A request has joined the queue of a flow, maybe at its head."""
    cdef Share *share = &queue.shares[flow]
    if share.where == IDLE:
        heap_remove(&queue.levels[share.parent].idle, flow)
        share.where = NOWHERE
    if share.where == READY:
        if queue.fifo:
            rekey(queue, flow)
    elif flow_is_eligible(queue, share):
        enter(queue, flow)


cdef void queue_append(FairQueue *queue, int32_t flow, int32_t slot) noexcept nogil:
    """Put a request at the end of its flow's queue. It must be filled in but for order, flow, links and state."""
    cdef Share *share = &queue.shares[flow]
    cdef Request *request = &queue.slots.requests[slot]
    queue.sequence += 1
    request.order = queue.sequence
    request.flow = flow
    request.state = WAITING
    link_after(queue, share, share.tail, slot)
    count(queue, flow, 1, 0)
    queue.waiting_bytes += request.size_bytes
    arrive(queue, flow)


cdef void take_out(FairQueue *queue, int32_t slot) noexcept nogil:
    """Take a waiting request out of its flow's queue."""
    cdef Request *request = &queue.slots.requests[slot]
    cdef Share *share = &queue.shares[request.flow]
    cdef bint was_head = share.head == slot
    unlink(queue, share, slot)
    count(queue, request.flow, -1, 0)
    queue.waiting_bytes -= request.size_bytes
    if share.where != READY:
        return
    if share.waiting == 0:
        leave(queue, request.flow)
    elif was_head and queue.fifo:
        rekey(queue, request.flow)


cdef void queue_remove(FairQueue *queue, int32_t slot) noexcept nogil:
    """A waiting request ends; it is charged nothing."""
    cdef int32_t flow = queue.slots.requests[slot].flow
    take_out(queue, slot)
    flow_settle(queue, flow)


cdef int32_t queue_next(FairQueue *queue) noexcept nogil:
    """The request that goes next, or NIL."""
    cdef int32_t index = ROOT
    if queue.levels[ROOT].ready.size == 0:
        return NIL
    while index < queue.level_max:  # ends: the tree has at most level_max levels
        index = heap_top(&queue.levels[index].ready).item
    return queue.shares[index].head


cdef void rebase(FairQueue *queue, int32_t parent) noexcept nogil:
    """Move the zero of a level's virtual time to now. All differences, so all orders, stay."""
    cdef Level *level = &queue.levels[parent]
    cdef int64_t zero = level.virtual_time
    cdef int32_t i
    for i in range(1, queue.share_max):
        if queue.shares[i].parent == parent:
            queue.shares[i].start -= zero
    if not queue.fifo:
        heap_shift_keys(&level.ready, -zero)
    heap_shift_keys(&level.idle, -zero)
    level.virtual_time = 0
    queue.rebases += 1


cdef void queue_dispatch(FairQueue *queue, int32_t slot) noexcept nogil:
    """The request that queue_next named starts: charge it on every level, and see who is eligible then."""
    cdef Request *request = &queue.slots.requests[slot]
    cdef int32_t flow = request.flow
    cdef int32_t index = flow
    cdef Share *share = &queue.shares[flow]
    cdef User *user = &queue.users[share.user]
    cdef Level *level
    cdef bint still
    CHECK(share.where == READY and share.head == slot and request.state == WAITING)
    unlink(queue, share, slot)
    request.state = RUNNING
    count(queue, flow, -1, 1)
    queue.waiting_bytes -= request.size_bytes
    still = flow_is_eligible(queue, share)
    while index != ROOT:
        share = &queue.shares[index]
        level = &queue.levels[share.parent]
        if share.start > level.virtual_time:
            level.virtual_time = share.start
        share.start += charge(request.cost, share.weight)
        queue.sequence += 1
        share.stamp = queue.sequence
        if still:
            heap_update(&level.ready, ready_key(queue, index), share.stamp, index)
        else:
            heap_remove(&level.ready, index)
            share.where = NOWHERE
            level.ready_weight -= share.weight
        while level.idle.size > 0 and heap_top(&level.idle).key <= level.virtual_time:
            forget_idle(queue, level)
        if level.virtual_time > queue.rebase_at:
            rebase(queue, share.parent)
        still = level_is_eligible(level)
        index = share.parent
    if user.running_max != 0 and user.running >= user.running_max:
        user_refresh(queue, queue.shares[flow].user)


cdef void correct(FairQueue *queue, int32_t slot, int64_t cost) noexcept nogil:
    """Make a running request's charge what it would have been for that cost, on every level."""
    cdef Request *request = &queue.slots.requests[slot]
    cdef int32_t index = request.flow
    cdef Share *share
    if cost == request.cost:
        return
    while index != ROOT:
        share = &queue.shares[index]
        share.start += charge(cost, share.weight) - charge(request.cost, share.weight)
        if share.where == READY and not queue.fifo:
            heap_update(&queue.levels[share.parent].ready, share.start, share.stamp, index)
        index = share.parent


cdef void queue_finish(FairQueue *queue, int32_t slot, int64_t cost) noexcept nogil:
    """A running request ends. The caller then gives its slots back and calls flow_settle."""
    cdef int32_t flow = queue.slots.requests[slot].flow
    cdef int32_t user = queue.shares[flow].user
    correct(queue, slot, cost)
    count(queue, flow, 0, -1)
    if queue.users[user].running_max != 0:
        user_refresh(queue, user)


cdef void queue_requeue(FairQueue *queue, int32_t slot) noexcept nogil:
    """A running request waits again, at its place in time, uncharged. The caller then gives its slots back."""
    cdef Request *requests = queue.slots.requests
    cdef int32_t flow = requests[slot].flow
    cdef Share *share = &queue.shares[flow]
    cdef int32_t previous = NIL
    cdef int32_t following = share.head
    correct(queue, slot, 0)
    # Only requests that came back as well can be older, and there are at most as many as were running.
    while following != NIL and requests[following].order < requests[slot].order:
        previous = following
        following = requests[following].next
    requests[slot].state = WAITING
    link_after(queue, share, previous, slot)
    count(queue, flow, 1, -1)
    queue.waiting_bytes += requests[slot].size_bytes
    user_refresh(queue, share.user)
    if queue.fifo:
        rekey(queue, flow)


cdef void queue_move(FairQueue *queue, int32_t slot, int32_t parent) noexcept nogil:
    """A waiting request goes to the same user's flow in another pool, at its place in time."""
    cdef Request *requests = queue.slots.requests
    cdef Request *request = &requests[slot]
    cdef int32_t old = request.flow
    cdef int64_t debt = queue.shares[old].start - queue.levels[queue.shares[old].parent].virtual_time
    cdef int32_t weight = queue.shares[old].weight
    cdef int32_t flow, previous
    cdef Share *share
    cdef bint is_new = flow_find(queue, queue.shares[old].user, parent) == NIL
    # The new flow first: the user must not be forgotten in between.
    flow = flow_obtain(queue, queue.shares[old].user, queue.users[queue.shares[old].user].key, parent)
    share = &queue.shares[flow]
    if is_new and debt > 0:
        share.start += debt
    if share.waiting == 0 and share.running == 0:
        share.weight = weight  # nobody else has a say in it
    take_out(queue, slot)
    request.flow = flow
    previous = share.tail
    while previous != NIL and requests[previous].order > request.order:
        previous = NIL if previous == share.head else requests[previous].previous
    link_after(queue, share, previous, slot)
    count(queue, flow, 1, 0)
    queue.waiting_bytes += request.size_bytes
    arrive(queue, flow)
    flow_settle(queue, old)


# Looking --------------------------------------------------------------------------------------------------------------

cdef int64_t queue_position(FairQueue *queue, int32_t slot) noexcept nogil:
    """Place in line: k turns of this user's, each of which lets everybody else have its weight's worth of turns."""
    cdef Request *requests = queue.slots.requests
    cdef Share *share = &queue.shares[requests[slot].flow]
    cdef Share *pool = &queue.shares[share.parent]
    cdef int64_t weight = queue.levels[share.parent].ready_weight
    cdef int64_t k = 1
    cdef int32_t before = slot
    if share.tail == slot:
        k = share.waiting
    else:
        while before != share.head:
            k += 1
            before = requests[before].previous
    if share.where != READY:
        weight += share.weight
    k = (k * weight + share.weight - 1) // share.weight
    return k if k < pool.waiting else pool.waiting


cdef const char *flow_fault(FairQueue *queue, int32_t index) noexcept nogil:
    cdef Share *share = &queue.shares[index]
    cdef Level *level = &queue.levels[share.parent]
    cdef Request *requests = queue.slots.requests
    cdef int32_t slot = share.head
    cdef int32_t previous = NIL
    cdef int32_t waiting = 0
    while slot != NIL and waiting <= share.waiting:
        if requests[slot].flow != index or requests[slot].state != WAITING:
            return b"a queue holds a request that is not its own"
        if previous != NIL and requests[slot].previous != previous:
            return b"a queue links back wrongly"
        if previous != NIL and requests[previous].order >= requests[slot].order:
            return b"a user's requests are not in order"
        previous = slot
        slot = requests[slot].next
        waiting += 1
    if waiting != share.waiting or previous != share.tail:
        return b"a queue's length or end is wrong"
    if (share.where == READY) != flow_is_eligible(queue, share):
        return b"a user is eligible and not ready, or the other way round"
    if (share.where == IDLE) != (share.waiting == 0 and share.running == 0):
        return b"a flow with nothing to do is not idle, or the other way round"
    if share.where == IDLE and share.start <= level.virtual_time:
        return b"an idle flow without debt was kept"
    return NULL


cdef const char *share_fault(FairQueue *queue, int32_t index) noexcept nogil:
    """Of any share but the root: is it in the heap that its state says, under the key that it has?"""
    cdef Share *share = &queue.shares[index]
    cdef Level *level = &queue.levels[share.parent]
    cdef Entry *entry
    if share.where == NOWHERE:
        if queue.position[index] != -1:
            return b"a share is in a heap and should not be"
        return NULL
    entry = heap_at(&level.ready if share.where == READY else &level.idle, queue.position[index])
    if entry.item != index or entry.tie != share.stamp:
        return b"a share is not where its position says"
    if entry.key != (ready_key(queue, index) if share.where == READY else share.start):
        return b"a share's key in its heap is not its virtual start"
    return NULL


cdef const char *level_fault(FairQueue *queue, int32_t index) noexcept nogil:
    cdef Level *level = &queue.levels[index]
    cdef int64_t waiting = 0, running = 0, weight = 0
    cdef int32_t i, ready = 0
    cdef const char *fault = heap_fault(&level.ready)
    if fault == NULL:
        fault = heap_fault(&level.idle)
    if fault != NULL:
        return fault
    for i in range(1, queue.share_max):
        if queue.shares[i].parent == index:
            waiting += queue.shares[i].waiting
            running += queue.shares[i].running
            if queue.shares[i].where == READY:
                ready += 1
                weight += queue.shares[i].weight
    if waiting != queue.shares[index].waiting or running != queue.shares[index].running:
        return b"a level's counts are not the sums over its children"
    if ready != level.ready.size or weight != level.ready_weight:
        return b"a level's eligible children or their weight are counted wrongly"
    if index != ROOT and (queue.shares[index].where == READY) != level_is_eligible(level):
        return b"a pool is eligible and not ready, or the other way round"
    return NULL


cdef const char *user_fault(FairQueue *queue, int32_t index) noexcept nogil:
    cdef User *user = &queue.users[index]
    cdef int32_t flow = user.flows
    cdef int32_t parent = NIL
    cdef int32_t waiting = 0, running = 0
    while flow != NIL:
        if queue.shares[flow].user != index or queue.shares[flow].parent <= parent:
            return b"a user's list of flows is broken"
        parent = queue.shares[flow].parent
        waiting += queue.shares[flow].waiting
        running += queue.shares[flow].running
        flow = queue.shares[flow].user_next
    if waiting != user.waiting or running != user.running:
        return b"a user's counts are not the sums over its pools"
    if user_find(queue, user.key) != index:
        return b"a user can't be found by its key"
    return NULL


cdef const char *queue_fault(FairQueue *queue) noexcept nogil:
    """What is wrong with the queue, or NULL. O(levels x shares)."""
    cdef const char *fault = NULL
    cdef int32_t i, flows = 0
    for i in range(1, queue.share_max):
        if queue.shares[i].parent == NIL:
            continue
        fault = share_fault(queue, i)
        if fault == NULL and i >= queue.level_max:
            flows += 1
            fault = flow_fault(queue, i)
            if fault == NULL:
                fault = user_fault(queue, queue.shares[i].user)
        if fault != NULL:
            return fault
    for i in range(queue.level_max):
        if i == ROOT or queue.shares[i].parent != NIL:
            fault = level_fault(queue, i)
            if fault != NULL:
                return fault
    if flows != queue.flow_count:
        return b"flows are counted wrongly"
    return NULL
