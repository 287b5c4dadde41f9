"""The node table: which nodes have room, and which of them is best; see nodes.pyx."""

from fairlead.core.heap cimport Entry, Heap, Pages
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

cdef enum:
    DOWN = 0
    UP = 1
    DRAINING = 2

cdef enum:
    SCORE = 0
    SCORE_RAW = 1
    LEAST_LOADED = 2
    P2C = 3

cdef struct Node:
    double gpu            # 0..1, negative: unknown
    int64_t score
    uint64_t chosen       # when it was chosen last, counted in choices
    uint32_t generation
    int32_t slots
    int32_t running       # slots occupied by our leases
    int32_t leases
    int32_t others        # requests the engine has from elsewhere
    int32_t pool_count
    uint8_t state
    uint8_t exists

cdef struct NodeTable:
    # set once
    Node *nodes
    Heap *open            # per pool: members that are UP and have a free slot, by (score, chosen)
    int32_t *position     # pool * node_max + node -> index in that heap
    int32_t *pools        # node * pool_max + k -> its k-th pool, ascending
    int32_t *members      # per pool
    int32_t *usable       # per pool: members that are UP
    Entry **page_tables
    Pages pages
    double gpu_weight
    double queue_weight
    int32_t node_max
    int32_t pool_max
    int32_t routing
    # changes
    uint64_t choices
    uint64_t random
    int32_t node_count

cdef bint nodes_init(NodeTable *table, int32_t node_max, int32_t pool_max, int32_t routing, double gpu_weight,
                     double queue_weight, uint64_t seed) noexcept
cdef void nodes_free(NodeTable *table) noexcept
cdef int32_t node_find(NodeTable *table, int64_t handle) noexcept nogil
cdef int64_t node_handle(NodeTable *table, int32_t node) noexcept nogil
cdef int32_t node_add(NodeTable *table, int32_t slots) noexcept nogil
cdef void node_remove(NodeTable *table, int32_t node) noexcept nogil
cdef void node_leave_pools(NodeTable *table, int32_t node) noexcept nogil
cdef void node_join_pool(NodeTable *table, int32_t node, int32_t pool) noexcept nogil
cdef void node_set_state(NodeTable *table, int32_t node, int32_t state) noexcept nogil
cdef void node_refresh(NodeTable *table, int32_t node) noexcept nogil
cdef int32_t node_choose(NodeTable *table, int32_t pool, int32_t avoid_a, int32_t avoid_b) noexcept nogil
cdef void node_lease(NodeTable *table, int32_t node, int32_t width) noexcept nogil
cdef void node_release(NodeTable *table, int32_t node, int32_t width) noexcept nogil
cdef const char *nodes_fault(NodeTable *table) noexcept nogil
