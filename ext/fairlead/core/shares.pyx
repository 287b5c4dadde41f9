"""The tree of shares: who is eligible, and when a share is brought to the present.

The theory is in fairqueue.pyx. Here is the one rule that prevents both hoarding and starvation: when a share becomes
eligible, start = max(start, virtual time of its parent). It is applied in ``enter`` and nowhere else.

States of a share, and what holds in each:
  READY    eligible; in the parent's ready heap, key start (or place in time), position = its index there
  IDLE     a flow with nothing waiting, nothing running and start > virtual time: kept only for what it owes, in the
           parent's idle heap
  NOWHERE  not eligible: a user at its limit or with only running requests, or a pool or group without work, without
           room, or under a limit that is full
"""

from fairlead.core.crowd cimport crowd_free, crowd_init
from fairlead.core.heap cimport (
    Entry, heap_init, heap_push, heap_remove, heap_top, heap_update, page_table_length, pages_free, pages_init,
)
from fairlead.core.memory cimport CHECK, core_calloc, core_free
from fairlead.core.slots cimport NIL, Slots
from libc.stdint cimport INT32_MAX, int32_t, int64_t, uint32_t
from libc.string cimport memset


cdef bint queue_init(FairQueue *queue, Slots *slots, int64_t flow_max, int32_t level_max, int32_t limit_max,
                     bint fifo, int64_t rebase_at, bint push_out, bint by_deadline) noexcept:
    """False: no memory; queue_free takes what there is."""
    cdef int64_t share_max = level_max + flow_max
    cdef int64_t i, table_size = 16
    cdef int32_t page_max = page_table_length(flow_max if flow_max > level_max else level_max)
    while table_size < 2 * flow_max:
        table_size *= 2
    CHECK(share_max <= INT32_MAX and table_size <= INT32_MAX)  # flows_max and groups_max see to that
    queue.shares = <Share *> core_calloc(share_max, sizeof(Share))
    queue.levels = <Level *> core_calloc(level_max, sizeof(Level))
    queue.limits = <Limit *> core_calloc(<int64_t> limit_max + 1, sizeof(Limit))
    queue.users = <User *> core_calloc(flow_max, sizeof(User))
    queue.table = <int32_t *> core_calloc(table_size, sizeof(int32_t))
    queue.position = <int32_t *> core_calloc(share_max, sizeof(int32_t))
    queue.page_tables = <Entry **> core_calloc(2 * <int64_t> level_max * page_max, sizeof(Entry *))
    if (queue.shares == NULL or queue.levels == NULL or queue.limits == NULL or queue.users == NULL
            or queue.table == NULL or queue.position == NULL or queue.page_tables == NULL
            or not pages_init(&queue.pages, share_max, 2 * level_max)
            or (push_out and not crowd_init(queue, flow_max))):
        return False
    queue.slots = slots
    queue.share_max = <int32_t> share_max
    queue.level_max = level_max
    queue.limit_max = limit_max
    queue.table_mask = <uint32_t> (table_size - 1)
    queue.fifo = fifo
    queue.plain = not fifo
    queue.by_deadline = by_deadline
    queue.rebase_at = rebase_at
    memset(queue.position, 0xff, share_max * sizeof(int32_t))
    for i in range(level_max):
        queue.shares[i].parent = queue.levels[i].child = NIL
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
    core_free(queue.limits)
    core_free(queue.users)
    core_free(queue.table)
    core_free(queue.position)
    core_free(queue.page_tables)
    pages_free(&queue.pages)
    crowd_free(queue)


cdef int64_t special_key(FairQueue *queue, int32_t index) noexcept nogil:
    """ready_key where it may be a rank or a place in time."""
    if index < queue.level_max and queue.levels[queue.shares[index].parent].strict:
        return queue.levels[index].rank
    if not queue.fifo:
        return queue.shares[index].start
    while index < queue.level_max:  # ends: the tree has at most level_max levels
        index = heap_top(&queue.levels[index].ready).item
    return <int64_t> queue.slots.requests[queue.shares[index].head].order


cdef void rekey(FairQueue *queue, int32_t index) noexcept nogil:
    """Under FIFO, the key of a share that was READY may have changed, and so may those above it."""
    cdef Share *share
    while index != ROOT:
        share = &queue.shares[index]
        if share.where != READY:
            break
        heap_update(&queue.levels[share.parent].ready, ready_key(queue, index), share.stamp, index)
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
    elif level_is_eligible(queue, parent):
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


cdef int32_t level_free(FairQueue *queue, int32_t first, int32_t count) noexcept nogil:
    """The first level of a range that is not in use, or NIL."""
    cdef int32_t level
    for level in range(first, first + count):
        if queue.shares[level].parent == NIL:
            return level
    return NIL


cdef void level_add(FairQueue *queue, int32_t level, int32_t parent, int32_t weight, int32_t rank,
                    int32_t limit) noexcept nogil:
    """A pool under the root, which opens with its nodes, or a group under a pool or a group, which is always open."""
    cdef int32_t *link
    cdef Share *share = &queue.shares[level]
    cdef Level *it = &queue.levels[level]
    CHECK(share.parent == NIL and share.waiting == 0 and share.running == 0)
    share.parent = parent
    share.weight = weight
    share.start = queue.levels[parent].virtual_time
    share.stamp = 0
    share.where = NOWHERE
    it.virtual_time = 0
    it.unpromoted = 0
    it.rank = rank
    it.strict = False
    it.open = parent != ROOT
    it.pool = level - 1 if parent == ROOT else queue.levels[parent].pool
    it.sibling = queue.levels[parent].child
    queue.levels[parent].child = level
    it.limit = limit
    if limit != 0:
        link = &queue.limits[limit].places
        while link[0] != NIL and link[0] < level:
            link = &queue.levels[link[0]].limit_next
        it.limit_next = link[0]
        link[0] = level


cdef void level_set_weight(FairQueue *queue, int32_t level, int32_t weight) noexcept nogil:
    cdef Share *share = &queue.shares[level]
    if share.where == READY:
        queue.levels[share.parent].ready_weight += weight - share.weight
    share.weight = weight


cdef void level_set_strict(FairQueue *queue, int32_t level, int64_t promote_ns) noexcept nogil:
    queue.levels[level].strict = True
    queue.levels[level].promote_ns = promote_ns
    queue.plain = False


cdef void level_remove(FairQueue *queue, int32_t level) noexcept nogil:
    """Only of a level with nothing waiting or running, which therefore has no flows either."""
    CHECK(queue.shares[level].waiting == 0 and queue.shares[level].running == 0)
    CHECK(queue.shares[level].where == NOWHERE and queue.levels[level].idle.size == 0)
    CHECK(queue.levels[level].child == NIL)
    cdef int32_t limit = queue.levels[level].limit
    cdef int32_t *link = &queue.levels[queue.shares[level].parent].child
    while link[0] != level:
        link = &queue.levels[link[0]].sibling
    link[0] = queue.levels[level].sibling
    if limit != 0:
        link = &queue.limits[limit].places
        while link[0] != level:
            link = &queue.levels[link[0]].limit_next
        link[0] = queue.levels[level].limit_next
    queue.shares[level].parent = NIL


cdef void level_set_open(FairQueue *queue, int32_t level, bint is_open) noexcept nogil:
    cdef Level *it = &queue.levels[level]
    if it.open == is_open:
        return
    it.open = is_open
    if queue.shares[level].where == READY:
        leave(queue, level)
    elif level_is_eligible(queue, level):
        enter(queue, level)


cdef int32_t limit_add(FairQueue *queue, int32_t running_max) noexcept nogil:
    """A new limit without places, or 0 when limit_max exist."""
    cdef int32_t limit = 1
    while limit <= queue.limit_max and queue.limits[limit].exists:
        limit += 1
    if limit > queue.limit_max:
        return 0
    queue.limits[limit].exists = True
    queue.limits[limit].running_max = running_max
    queue.limits[limit].places = NIL
    queue.limit_count += 1
    return limit


cdef void limit_remove(FairQueue *queue, int32_t limit) noexcept nogil:
    """Only of a limit without places, below which therefore nothing runs."""
    CHECK(queue.limits[limit].exists and queue.limits[limit].places == NIL and queue.limits[limit].running == 0)
    queue.limits[limit].exists = False
    queue.limit_count -= 1


cdef void limit_refresh(FairQueue *queue, int32_t limit) noexcept nogil:
    """A limit or the count of what runs under it has changed: let its places in or out."""
    cdef int32_t level = queue.limits[limit].places
    cdef bint eligible
    while level != NIL:
        eligible = level_is_eligible(queue, level)
        if eligible and queue.shares[level].where != READY:
            enter(queue, level)
        elif not eligible and queue.shares[level].where == READY:
            leave(queue, level)
        level = queue.levels[level].limit_next


cdef void limit_set(FairQueue *queue, int32_t limit, int32_t running_max) noexcept nogil:
    queue.limits[limit].running_max = running_max
    limit_refresh(queue, limit)


cdef bint limit_is_above(FairQueue *queue, int32_t limit, int32_t level) noexcept nogil:
    """Does a level or one above it belong to the limit?"""
    while level != ROOT and queue.levels[level].limit != limit:
        level = queue.shares[level].parent
    return level != ROOT


cdef void limits_count(FairQueue *queue, int32_t level, int32_t running) noexcept nogil:
    """A request in a level begins or ends to run."""
    while level != ROOT:
        if queue.levels[level].limit != 0:
            queue.limits[queue.levels[level].limit].running += running
        level = queue.shares[level].parent


cdef void limits_refresh(FairQueue *queue, int32_t level) noexcept nogil:
    """A request in a level has begun or ended to run: which limits does it fill, or leave with room again?"""
    cdef Limit *limit
    while level != ROOT:
        limit = &queue.limits[queue.levels[level].limit]
        if limit.running_max != 0 and 0 <= limit.running_max - limit.running <= 1:
            limit_refresh(queue, queue.levels[level].limit)
        level = queue.shares[level].parent
