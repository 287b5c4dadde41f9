"""The tree of shares: what is eligible, and in which order; see shares.pyx."""

from fairlead.core.heap cimport Entry, Heap, Pages, heap_top
from fairlead.core.slots cimport Slots
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

cdef enum:
    VIRTUAL_UNIT = 720720  # lcm(1..16): exact for weights 1..16, floor for others
    ROOT = 0

cdef extern from *:
    """
    /* Virtual starts stay within this of zero, so that no sum of two overflows. (A Cython enum has an int's width.) */
    #define FAIRLEAD_START_MAX ((int64_t) 1 << 61)
    """
    const int64_t START_MAX "FAIRLEAD_START_MAX"

cdef enum:
    NOWHERE = 0            # not eligible; nothing remembers it but its parent's children
    READY = 1              # eligible: in its parent's ready heap
    IDLE = 2               # a flow with nothing waiting or running that still owes: in its parent's idle heap

cdef struct Share:         # 64 bytes. A node of the tree: a level (pool; later tier, team) or a flow (a user in a pool)
    int64_t start          # virtual start of its next request, in 1/VIRTUAL_UNIT
    uint64_t stamp         # breaks ties between equal starts: smaller first
    int32_t parent         # NIL: this share is free (then next is user_next)
    int32_t weight
    int32_t waiting        # requests at or below it
    int32_t running
    int32_t head           # flows only: queue of waiting requests, oldest first
    int32_t tail
    int32_t user
    int32_t user_next      # flows of one user, in ascending order of parent
    int32_t user_previous
    uint8_t where

cdef struct Level:         # what a share with children has in addition; same index
    int64_t virtual_time
    int64_t ready_weight   # of the children in ready
    Heap ready
    Heap idle
    int64_t promote_ns     # STRICT levels: a request that waited that long may go before higher ranks
    int32_t pool
    int32_t limit          # that it belongs to; 0: none
    int32_t limit_next     # levels of one limit, in ascending order
    int32_t child          # levels below it, the one added last first
    int32_t sibling
    int32_t rank           # under a STRICT parent: smaller goes first
    int32_t unpromoted     # STRICT: dispatches since the last that was promoted
    uint8_t open           # pools: some node has room
    uint8_t strict

cdef struct Limit:         # on what runs in all its places together; number 0 is none
    int32_t running
    int32_t running_max    # 0: no limit
    int32_t places         # first of the levels that belong to it
    uint8_t exists

cdef struct User:
    uint64_t key
    uint64_t stamp         # when it came to the table
    int64_t waiting_bytes
    int32_t running        # over all pools
    int32_t running_max    # 0: no limit
    int32_t waiting
    int32_t weight         # the newest submit's
    int32_t flows          # first of them

cdef struct Crowd:         # the waiting room's shares; heaps only where requests may be pushed out
    Heap by_count          # users with waiting requests, the one furthest above its share first; while active
    Heap by_bytes
    int32_t *position
    Entry **page_tables
    Pages pages
    int64_t waiting_weight  # of all users with waiting requests
    bint active

cdef struct FairQueue:
    # set once
    Slots *slots
    Share *shares          # levels first (0 .. level_max - 1), then flows
    Level *levels
    Limit *limits          # 1 .. limit_max
    User *users
    int32_t *table         # hash table: user index + 1, 0 where empty
    int32_t *position      # share -> index in the one heap that it is in
    Entry **page_tables
    Pages pages
    int64_t rebase_at
    int32_t share_max
    int32_t level_max
    int32_t limit_max
    uint32_t table_mask
    bint fifo
    bint plain             # not fifo, and no level was ever strict: every key is a virtual start
    bint by_deadline       # within a flow: earliest deadline first
    # changes
    uint64_t sequence      # stamps and places in time
    int64_t waiting_bytes
    Crowd crowd
    int32_t flow_free      # list of free flows
    int32_t user_free      # list of free users, linked by flows
    int32_t flow_count
    int32_t user_count
    int32_t limit_count    # of limits; while there is none, nobody counts for them
    int64_t rebases

cdef bint queue_init(FairQueue *queue, Slots *slots, int64_t flow_max, int32_t level_max, int32_t limit_max,
                     bint fifo, int64_t rebase_at, bint push_out, bint by_deadline) noexcept
cdef void queue_free(FairQueue *queue) noexcept
cdef int64_t special_key(FairQueue *queue, int32_t index) noexcept nogil
cdef void rekey(FairQueue *queue, int32_t index) noexcept nogil
cdef void enter(FairQueue *queue, int32_t index) noexcept nogil
cdef void leave(FairQueue *queue, int32_t index) noexcept nogil
cdef void user_refresh(FairQueue *queue, int32_t user) noexcept nogil
cdef int32_t level_free(FairQueue *queue, int32_t first, int32_t count) noexcept nogil
cdef void level_add(FairQueue *queue, int32_t level, int32_t parent, int32_t weight, int32_t rank,
                    int32_t limit) noexcept nogil
cdef void level_set_weight(FairQueue *queue, int32_t level, int32_t weight) noexcept nogil
cdef void level_set_strict(FairQueue *queue, int32_t level, int64_t promote_ns) noexcept nogil
cdef void level_remove(FairQueue *queue, int32_t level) noexcept nogil
cdef void level_set_open(FairQueue *queue, int32_t level, bint is_open) noexcept nogil
cdef int32_t limit_add(FairQueue *queue, int32_t running_max) noexcept nogil
cdef void limit_set(FairQueue *queue, int32_t limit, int32_t running_max) noexcept nogil
cdef void limit_remove(FairQueue *queue, int32_t limit) noexcept nogil
cdef bint limit_is_above(FairQueue *queue, int32_t limit, int32_t level) noexcept nogil
cdef void limits_count(FairQueue *queue, int32_t level, int32_t running) noexcept nogil
cdef void limits_refresh(FairQueue *queue, int32_t level) noexcept nogil

cdef inline int64_t charge(int64_t cost, int32_t weight) noexcept nogil:
    return VIRTUAL_UNIT * cost if weight == 1 else VIRTUAL_UNIT * cost // weight

cdef inline void share_charge(Share *share, int64_t amount) noexcept nogil:
    share.start += amount
    if share.start > START_MAX:
        share.start = START_MAX
    elif share.start < -START_MAX:
        share.start = -START_MAX


cdef inline bint flow_is_eligible(FairQueue *queue, Share *share) noexcept nogil:
    cdef User *user = &queue.users[share.user]
    return share.waiting > 0 and (user.running_max == 0 or user.running < user.running_max)

cdef inline bint limit_is_full(FairQueue *queue, int32_t limit) noexcept nogil:
    cdef Limit *it = &queue.limits[limit]
    return it.running_max != 0 and it.running >= it.running_max

cdef inline bint level_is_eligible(FairQueue *queue, int32_t index) noexcept nogil:
    cdef Level *level = &queue.levels[index]
    return level.ready.size > 0 and level.open and (level.limit == 0 or not limit_is_full(queue, level.limit))

cdef inline int64_t ready_key(FairQueue *queue, int32_t index) noexcept nogil:
    # Unless fifo or strict, in which case it is looked up.
    if queue.plain or (index >= queue.level_max and not queue.fifo):
        return queue.shares[index].start
    return special_key(queue, index)
