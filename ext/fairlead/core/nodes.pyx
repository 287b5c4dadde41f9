"""Where a request goes: the open node with the smallest score, ties to the one chosen least recently.

Promise: only nodes that are UP, belong to the pool and have a free slot are ever chosen, and the count of slots in
use is our own, updated in the call that chooses; reports from the nodes only colour the score. A choice costs O(1),
a change of a node O(log4 n) for each of its pools.

Theory. Every pool has a heap of its open nodes, keyed (score, chosen). A score changes only when the node's own
numbers do, so it is computed then and not at the choice. Scores are fixed-point integers: two nodes whose scores
are equal on paper are equal here, and go by turns, where rounding noise in floats would pick the same one again and
again. "Chosen least recently" and not a rotating index: with four idle nodes of which one drains every other
request, a rotation sends 5/0/5/2 of twelve, this sends 3/3/3/3.

A node that is removed keeps its leases' numbers in its slot until the slot is used again under the next generation; a
lease carries the generation it was made on, so it can't touch the successor.
"""

from fairlead.core.heap cimport (
    Entry, heap_at, heap_fault, heap_init, heap_push, heap_remove, heap_top, heap_update, page_table_length, pages_free,
    pages_init,
)
from fairlead.core.memory cimport CHECK, core_calloc, core_free
from fairlead.core.slots cimport NIL
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memset


cdef bint nodes_init(NodeTable *table, int32_t node_max, int32_t pool_max, int32_t routing, double gpu_weight,
                     double queue_weight, uint64_t seed) noexcept:
    """False: no memory; nodes_free takes what there is."""
    cdef int64_t cells = <int64_t> node_max * pool_max
    cdef int32_t page_max = page_table_length(node_max)
    cdef int32_t i
    table.nodes = <Node *> core_calloc(node_max, sizeof(Node))
    table.open = <Heap *> core_calloc(pool_max, sizeof(Heap))
    table.position = <int32_t *> core_calloc(cells, sizeof(int32_t))
    table.pools = <int32_t *> core_calloc(cells, sizeof(int32_t))
    table.members = <int32_t *> core_calloc(pool_max, sizeof(int32_t))
    table.usable = <int32_t *> core_calloc(pool_max, sizeof(int32_t))
    table.page_tables = <Entry **> core_calloc(<int64_t> pool_max * page_max, sizeof(Entry *))
    if (table.nodes == NULL or table.open == NULL or table.position == NULL or table.pools == NULL
            or table.members == NULL or table.usable == NULL or table.page_tables == NULL
            or not pages_init(&table.pages, cells, pool_max)):
        return False
    memset(table.position, 0xff, cells * sizeof(int32_t))
    for i in range(pool_max):
        heap_init(&table.open[i], &table.pages, &table.page_tables[<int64_t> i * page_max], page_max,
                  &table.position[<int64_t> i * node_max])
    table.node_max = node_max
    table.pool_max = pool_max
    table.routing = routing
    table.gpu_weight = gpu_weight
    table.queue_weight = queue_weight
    table.random = seed * 2 + 1  # xorshift must not start at 0
    return True


cdef void nodes_free(NodeTable *table) noexcept:
    core_free(table.nodes)
    core_free(table.open)
    core_free(table.position)
    core_free(table.pools)
    core_free(table.members)
    core_free(table.usable)
    core_free(table.page_tables)
    pages_free(&table.pages)


cdef int32_t node_find(NodeTable *table, int64_t handle) noexcept nogil:
    """The index of a node that exists, NIL for any other number."""
    cdef int64_t index = <int64_t> <uint32_t> handle
    if handle < 0 or index >= table.node_max:
        return NIL
    if not table.nodes[index].exists or table.nodes[index].generation != <uint32_t> (handle >> 32):
        return NIL
    return <int32_t> index


cdef int64_t node_handle(NodeTable *table, int32_t node) noexcept nogil:
    return (<int64_t> table.nodes[node].generation << 32) | node


cdef int64_t node_score(NodeTable *table, Node *node) noexcept nogil:
    cdef double gpu = 0.5 if node.gpu < 0.0 else node.gpu
    cdef double load = <double> node.running + <double> node.others
    if table.routing == SCORE_RAW:
        # Bit for bit: these operations on doubles, in this order, truncated. The build forbids fused multiply-add.
        return <int64_t> (((gpu * 0.3) * 100.0) + ((load * 0.7) * 10.0))
    load = load / node.slots if node.slots > 0 else 1.0
    if table.routing == LEAST_LOADED:
        return <int64_t> (load * 1e9 + 0.5)
    if load > 1.0:
        load = 1.0
    return <int64_t> ((table.gpu_weight * gpu + table.queue_weight * load) * 1e9 + 0.5)


cdef void node_refresh(NodeTable *table, int32_t node) noexcept nogil:
    """A node's numbers have changed: score it anew and put it where it belongs in each of its pools."""
    cdef Node *it = &table.nodes[node]
    cdef bint is_open = it.state == UP and it.running < it.slots
    cdef int32_t k, pool
    it.score = node_score(table, it)
    for k in range(it.pool_count):
        pool = table.pools[<int64_t> node * table.pool_max + k]
        if table.open[pool].position[node] >= 0:
            if is_open:
                heap_update(&table.open[pool], it.score, it.chosen, node)
            else:
                heap_remove(&table.open[pool], node)
        elif is_open:
            heap_push(&table.open[pool], it.score, it.chosen, node)


cdef int32_t node_add(NodeTable *table, int32_t slots) noexcept nogil:
    """A new node, DOWN and in no pool, or NIL when the table is full."""
    cdef int32_t index = 0
    cdef Node *it
    while index < table.node_max and table.nodes[index].exists:
        index += 1
    if index == table.node_max:
        return NIL
    it = &table.nodes[index]
    it.exists = True
    it.generation = (it.generation + 1) & 0x7fffffff
    if it.generation == 0:
        it.generation = 1
    it.gpu = -1.0
    it.slots = slots
    it.running = it.leases = it.others = it.pool_count = 0
    it.state = DOWN
    table.choices += 1
    it.chosen = table.choices
    table.node_count += 1
    it.score = node_score(table, it)
    return index


cdef void node_remove(NodeTable *table, int32_t node) noexcept nogil:
    node_leave_pools(table, node)
    table.nodes[node].exists = False
    table.node_count -= 1


cdef void node_leave_pools(NodeTable *table, int32_t node) noexcept nogil:
    cdef Node *it = &table.nodes[node]
    cdef int32_t k, pool
    for k in range(it.pool_count):
        pool = table.pools[<int64_t> node * table.pool_max + k]
        table.members[pool] -= 1
        table.usable[pool] -= it.state == UP
        if table.open[pool].position[node] >= 0:
            heap_remove(&table.open[pool], node)
    it.pool_count = 0


cdef void node_join_pool(NodeTable *table, int32_t node, int32_t pool) noexcept nogil:
    """Pools must be joined in ascending order. The caller refreshes the node afterwards."""
    cdef Node *it = &table.nodes[node]
    CHECK(it.pool_count == 0 or table.pools[<int64_t> node * table.pool_max + it.pool_count - 1] < pool)
    table.pools[<int64_t> node * table.pool_max + it.pool_count] = pool
    it.pool_count += 1
    table.members[pool] += 1
    table.usable[pool] += it.state == UP


cdef void node_set_state(NodeTable *table, int32_t node, int32_t state) noexcept nogil:
    cdef Node *it = &table.nodes[node]
    cdef int32_t k, pool
    for k in range(it.pool_count):
        pool = table.pools[<int64_t> node * table.pool_max + k]
        table.usable[pool] += (state == UP) - (it.state == UP)
    it.state = <unsigned char> state
    node_refresh(table, node)


cdef inline uint32_t draw(NodeTable *table, uint32_t limit) noexcept nogil:
    """A number below limit, from xorshift64* (Vigna 2016): the same seed, the same numbers."""
    table.random ^= table.random >> 12
    table.random ^= table.random << 25
    table.random ^= table.random >> 27
    return <uint32_t> (((table.random * <uint64_t> 0x2545F4914F6CDD1D) >> 32) * limit >> 32)


cdef inline bint before(Entry *a, Entry *b) noexcept nogil:
    return a.key < b.key or (a.key == b.key and a.tie < b.tie)


cdef int32_t node_choose(NodeTable *table, int32_t pool, int32_t avoid_a, int32_t avoid_b) noexcept nogil:
    """The best open node of a pool that has one; one to be avoided only if there is no other."""
    cdef Heap *heap = &table.open[pool]
    cdef Entry *best
    cdef Entry *entry
    cdef int32_t i
    CHECK(heap.size > 0)
    if avoid_a != NIL or avoid_b != NIL:  # rare: a request that came back from a node
        best = NULL
        for i in range(heap.size):
            entry = heap_at(heap, i)
            if entry.item != avoid_a and entry.item != avoid_b and (best == NULL or before(entry, best)):
                best = entry
        return heap_top(heap).item if best == NULL else best.item
    if table.routing != P2C or heap.size == 1:
        return heap_top(heap).item
    i = <int32_t> draw(table, heap.size)
    best = heap_at(heap, i)
    entry = heap_at(heap, (i + 1 + <int32_t> draw(table, heap.size - 1)) % heap.size)
    return entry.item if before(entry, best) else best.item


cdef void node_lease(NodeTable *table, int32_t node, int32_t width) noexcept nogil:
    cdef Node *it = &table.nodes[node]
    table.choices += 1
    it.chosen = table.choices
    it.running += width
    it.leases += 1
    node_refresh(table, node)


cdef void node_release(NodeTable *table, int32_t node, int32_t width) noexcept nogil:
    cdef Node *it = &table.nodes[node]
    CHECK(it.running >= width and it.leases > 0)
    it.running -= width
    it.leases -= 1
    node_refresh(table, node)


cdef const char *nodes_fault(NodeTable *table) noexcept nogil:
    """What is wrong with the table, or NULL."""
    cdef int32_t pool, node, k, cells
    cdef int32_t members, usable, open_count
    cdef const char *fault
    cdef Node *it
    for pool in range(table.pool_max):
        fault = heap_fault(&table.open[pool])
        if fault != NULL:
            return fault
        members = usable = open_count = 0
        for node in range(table.node_max):
            it = &table.nodes[node]
            cells = 0
            for k in range(it.pool_count):
                cells += table.pools[<int64_t> node * table.pool_max + k] == pool
            members += cells
            usable += cells * (it.state == UP)
            if (table.open[pool].position[node] >= 0) != (cells > 0 and it.state == UP and it.running < it.slots):
                return b"a node is open and not offered, or the other way round"
            if cells > 0 and (not it.exists or it.score != node_score(table, it)):
                return b"a node's score is stale"
            open_count += table.open[pool].position[node] >= 0
        if members != table.members[pool] or usable != table.usable[pool] or open_count != table.open[pool].size:
            return b"a pool's nodes are counted wrongly"
    return NULL
