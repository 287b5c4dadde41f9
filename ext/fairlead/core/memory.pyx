"""One door to the allocator, so that a test can make the k-th allocation fail, for every k.

All allocations of the core happen in constructors. ``core_free(NULL)`` is allowed, which is what lets a half-built
object be freed from its ``__dealloc__`` without asking how far it came.
"""

from fairlead.core.memory cimport FAIRLEAD_CHECKS
from libc.stdlib cimport calloc, free

cdef long long allocations_left = -1  # -1: no failure is planted
cdef long long blocks = 0


cdef void *core_calloc(size_t count, size_t size) noexcept:
    """Zeroed memory for count > 0 elements, or NULL. calloc itself refuses a product that overflows."""
    global allocations_left, blocks
    if allocations_left == 0:
        return NULL
    if allocations_left > 0:
        allocations_left -= 1
    cdef void *memory = calloc(count, size)
    if memory != NULL:
        blocks += 1
    return memory


cdef void core_free(void *memory) noexcept:
    global blocks
    if memory != NULL:
        blocks -= 1
    free(memory)


def blocks_in_use():
    return blocks


def fail_allocation_after(long long count):
    global allocations_left
    allocations_left = count


def checks_are_on():
    return bool(FAIRLEAD_CHECKS)
