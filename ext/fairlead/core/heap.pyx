"""The heap behind deadlines, users' turns and nodes' scores.

Promise: push, remove of any item, and change of any key in O(log4 n); the smallest entry is at hand. An item that is
removed is gone at once: nothing is marked dead and swept later.

Theory. A 4-ary heap is half as deep as a binary one, and the four children of an entry lie side by side: 96 bytes,
two cache lines. Keys are kept in the entries, so a comparison touches nothing but the heap. A sift moves a hole
instead of swapping. ``position[item]`` is written at every move, which is what makes an item findable.

Memory. Entries live in pages of 64 that come from a fixed pool, because the sum of all entries of a scheduler's
heaps is bounded and the size of each single one is not known: a heap of n entries holds ceil((n + 3) / 64) pages,
so total entries / 64 + 2 pages per heap always suffice, and running out is a broken rule, not a condition.

What may be null: ``pages[i]`` for i >= page_count. ``position`` of an item that is in no heap is -1.
"""

cimport cython
from fairlead.core.memory cimport CHECK, core_calloc, core_free
from libc.stdint cimport INT32_MAX, int32_t, int64_t, uint64_t
from libc.string cimport memset

cdef enum:
    PAGE = 64
    LEAD = 3  # unused entries in front of the first, see heap_at


cdef bint pages_init(Pages *pages, int64_t entries, int64_t heaps) noexcept:
    """Room for that many entries spread over that many heaps. False: no memory."""
    cdef int64_t count = entries // PAGE + 2 * heaps + 1
    cdef int64_t i
    CHECK(count <= INT32_MAX)  # nobody's limits allow for more
    pages.memory = <Entry *> core_calloc(<size_t> count, PAGE * sizeof(Entry))
    pages.free = <Entry **> core_calloc(<size_t> count, sizeof(Entry *))
    if pages.memory == NULL or pages.free == NULL:
        return False
    for i in range(count):
        pages.free[i] = &pages.memory[(count - 1 - i) * PAGE]
    pages.count = pages.free_count = <int32_t> count
    return True


cdef void pages_free(Pages *pages) noexcept:
    core_free(pages.memory)
    core_free(pages.free)
    pages.memory = NULL
    pages.free = NULL


cdef int32_t page_table_length(int64_t entries) noexcept:
    return <int32_t> ((entries + LEAD + PAGE - 1) // PAGE)


cdef void heap_init(Heap *heap, Pages *source, Entry **table, int32_t page_max, int32_t *position) noexcept nogil:
    heap.source = source
    heap.pages = table
    heap.position = position
    heap.page_max = page_max
    heap.page_count = 0
    heap.size = 0


cdef inline bint less(Entry *a, Entry *b) noexcept nogil:
    return a.key < b.key or (a.key == b.key and a.tie < b.tie)


cdef inline void put(Heap *heap, int32_t index, Entry *entry) noexcept nogil:
    heap_at(heap, index)[0] = entry[0]
    heap.position[entry.item] = index


cdef inline void sift_up(Heap *heap, int32_t index, Entry *entry) noexcept nogil:
    cdef int32_t parent
    cdef Entry *above
    while index > 0:
        parent = (index - 1) >> 2
        above = heap_at(heap, parent)
        if not less(entry, above):
            break
        put(heap, index, above)
        index = parent
    put(heap, index, entry)


cdef inline void sift_down(Heap *heap, int32_t index, Entry *entry) noexcept nogil:
    cdef int32_t first, count, i, best
    cdef Entry *group
    while True:
        first = 4 * index + 1
        count = heap.size - first
        if count <= 0:
            break
        group = heap_at(heap, first)
        best = 0
        if count >= 4:
            if less(&group[1], &group[0]):
                best = 1
            if less(&group[2], &group[best]):
                best = 2
            if less(&group[3], &group[best]):
                best = 3
        else:
            for i in range(1, count):
                if less(&group[i], &group[best]):
                    best = i
        if not less(&group[best], entry):
            break
        put(heap, index, &group[best])
        index = first + best
    put(heap, index, entry)


cdef void heap_push(Heap *heap, int64_t key, uint64_t tie, int32_t item) noexcept nogil:
    cdef Pages *source = heap.source
    cdef Entry entry
    CHECK(heap.position[item] == -1)
    if heap.size + LEAD >= heap.page_count * PAGE:
        CHECK(source.free_count > 0 and heap.page_count < heap.page_max)
        source.free_count -= 1
        heap.pages[heap.page_count] = source.free[source.free_count]
        heap.page_count += 1
    entry.key = key
    entry.tie = tie
    entry.item = item
    heap.size += 1
    sift_up(heap, heap.size - 1, &entry)


cdef void heap_remove(Heap *heap, int32_t item) noexcept nogil:
    cdef int32_t index = heap.position[item]
    cdef Entry last
    cdef Pages *source = heap.source
    CHECK(index >= 0 and index < heap.size and heap_at(heap, index).item == item)
    heap.position[item] = -1
    heap.size -= 1
    if index != heap.size:
        last = heap_at(heap, heap.size)[0]
        if index > 0 and less(&last, heap_at(heap, (index - 1) >> 2)):
            sift_up(heap, index, &last)
        else:
            sift_down(heap, index, &last)
    # Give the last page back when nothing is left in it.
    if heap.size == 0 or heap.size + LEAD <= (heap.page_count - 1) * PAGE:
        heap.page_count -= 1
        source.free[source.free_count] = heap.pages[heap.page_count]
        source.free_count += 1


cdef void heap_update(Heap *heap, int64_t key, uint64_t tie, int32_t item) noexcept nogil:
    """Give an item that is in the heap another key."""
    cdef int32_t index = heap.position[item]
    cdef Entry entry
    CHECK(index >= 0 and index < heap.size and heap_at(heap, index).item == item)
    entry.key = key
    entry.tie = tie
    entry.item = item
    if index > 0 and less(&entry, heap_at(heap, (index - 1) >> 2)):
        sift_up(heap, index, &entry)
    else:
        sift_down(heap, index, &entry)


cdef void heap_shift_keys(Heap *heap, int64_t delta) noexcept nogil:
    """Add delta to every key; the order stays."""
    cdef int32_t i
    for i in range(heap.size):
        heap_at(heap, i).key += delta


cdef const char *heap_fault(Heap *heap) noexcept nogil:
    """What is wrong with the heap, or NULL. O(n)."""
    cdef int32_t i
    if heap.page_count != (0 if heap.size == 0 else (heap.size + LEAD + PAGE - 1) // PAGE):
        return b"a heap holds more or fewer pages than its size needs"
    for i in range(heap.size):
        if heap.position[heap_at(heap, i).item] != i:
            return b"a heap's position map disagrees with its entries"
        if i > 0 and less(heap_at(heap, i), heap_at(heap, (i - 1) >> 2)):
            return b"a heap entry is smaller than its parent"
    return NULL


@cython.final
cdef class IndexedHeap:
    """See heap.pyi."""

    def __cinit__(self, int capacity):
        if capacity < 1 or capacity > 1 << 30:
            raise ValueError(f"capacity is {capacity}: choose 1..{1 << 30}")
        cdef int32_t length = page_table_length(capacity)
        self.capacity = capacity
        self.table = <Entry **> core_calloc(length, sizeof(Entry *))
        self.positions = <int32_t *> core_calloc(capacity, sizeof(int32_t))
        if not pages_init(&self.source, capacity, 1) or self.table == NULL or self.positions == NULL:
            raise MemoryError(f"no memory for a heap of {capacity} items")
        memset(self.positions, 0xff, capacity * sizeof(int32_t))
        heap_init(&self.heap, &self.source, self.table, length, self.positions)

    def __dealloc__(self):
        pages_free(&self.source)
        core_free(self.table)
        core_free(self.positions)

    cdef int require(self, int32_t item) except -1:
        if item < 0 or item >= self.capacity:
            raise IndexError(f"item is {item}: this heap holds 0..{self.capacity - 1}")
        return 0

    def push(self, int64_t key, int32_t item, /):
        self.require(item)
        if self.positions[item] >= 0:
            raise ValueError(f"item {item} is in the heap already: use update")
        self.pushed += 1
        heap_push(&self.heap, key, self.pushed, item)

    def update(self, int64_t key, int32_t item, /):
        self.require(item)
        if self.positions[item] < 0:
            raise ValueError(f"item {item} is not in the heap: use push")
        self.pushed += 1
        heap_update(&self.heap, key, self.pushed, item)

    def remove(self, int32_t item, /):
        self.require(item)
        if self.positions[item] < 0:
            return False
        heap_remove(&self.heap, item)
        return True

    def top(self):
        if self.heap.size == 0:
            return None
        cdef Entry *entry = heap_top(&self.heap)
        return entry.key, entry.item

    def pop_due(self, int64_t key, /):
        cdef list due = []
        cdef int32_t item
        while self.heap.size > 0 and heap_top(&self.heap).key <= key:
            item = heap_top(&self.heap).item
            heap_remove(&self.heap, item)
            due.append(item)
        return due

    def __contains__(self, int32_t item):
        return 0 <= item < self.capacity and self.positions[item] >= 0

    def __len__(self):
        return self.heap.size

    def check(self):
        cdef const char *fault = heap_fault(&self.heap)
        if fault != NULL:
            raise AssertionError(fault.decode())
