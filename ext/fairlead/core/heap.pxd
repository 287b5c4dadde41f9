"""An indexed 4-ary min-heap over fixed pages; theory and bounds in heap.pyx."""

from fairlead.core.memory cimport PREFETCH
from libc.stdint cimport int32_t, int64_t, uint64_t

cdef struct Entry:
    int64_t key
    uint64_t tie      # smaller wins among equal keys; unique within a heap where order must be exact
    int32_t item

cdef struct Pages:    # what the heaps of one owner draw their pages from
    Entry *memory
    Entry **free       # stack of free pages
    int32_t free_count
    int32_t count

cdef struct Heap:
    # set once
    Pages *source
    Entry **pages      # table of the pages in use
    int32_t *position  # item -> index in the heap, or -1; heaps that exclude each other may share one
    int32_t page_max
    # changes
    int32_t page_count
    int32_t size

cdef bint pages_init(Pages *pages, int64_t entries, int64_t heaps) noexcept
cdef void pages_free(Pages *pages) noexcept
cdef int32_t page_table_length(int64_t entries) noexcept

# The page table and the positions belong to the caller.
cdef void heap_init(Heap *heap, Pages *source, Entry **table, int32_t page_max, int32_t *position) noexcept nogil
cdef void heap_push(Heap *heap, int64_t key, uint64_t tie, int32_t item) noexcept nogil
cdef void heap_remove(Heap *heap, int32_t item) noexcept nogil
cdef void heap_update(Heap *heap, int64_t key, uint64_t tie, int32_t item) noexcept nogil
cdef void heap_shift_keys(Heap *heap, int64_t delta) noexcept nogil
cdef const char *heap_fault(Heap *heap) noexcept nogil

cdef inline Entry *heap_at(Heap *heap, int32_t index) noexcept nogil:
    # Shifted by 3: the four children of one entry are neighbours in one page, and start on a multiple of four.
    return &heap.pages[(index + 3) >> 6][(index + 3) & 63]

cdef inline void heap_expect(Heap *heap, int32_t item) noexcept nogil:
    # Start loading what heap_remove of an item that is in the heap will need.
    cdef int32_t index = heap.position[item]
    PREFETCH(heap_at(heap, index))
    PREFETCH(heap_at(heap, (index - 1) >> 2))

cdef inline Entry *heap_top(Heap *heap) noexcept nogil:
    return &heap.pages[0][3]

cdef class IndexedHeap:  # a heap of its own, for Python
    cdef Pages source
    cdef Heap heap
    cdef Entry **table
    cdef int32_t *positions
    cdef int32_t capacity
    cdef uint64_t pushed
    cdef int require(self, int32_t item) except -1
