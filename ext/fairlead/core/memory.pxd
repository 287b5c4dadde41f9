"""Where every array of the core comes from; see memory.pyx."""

cdef extern from "fairlead.h" nogil:
    const bint FAIRLEAD_CHECKS
    void CHECK(bint condition)
    void PREFETCH(void *address)

cdef void *core_calloc(size_t count, size_t size) noexcept
cdef void core_free(void *memory) noexcept
