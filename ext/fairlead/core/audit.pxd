"""What must hold inside the scheduler, checked; see audit.pyx."""

from fairlead.core.dispatch cimport Core

cdef const char *core_fault(Core *core) noexcept nogil
