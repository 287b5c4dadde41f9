"""What can be read of the scheduler, as dictionaries; see numbers.pyx."""

from fairlead.core.dispatch cimport Core
from libc.stdint cimport int32_t

cdef dict counter_numbers(Core *core)
cdef dict pool_numbers(Core *core, int32_t pool)
cdef dict group_numbers(Core *core, int32_t group)
cdef dict limit_numbers(Core *core, int32_t limit)
cdef dict node_numbers(Core *core, int32_t node)
cdef dict flow_numbers(Core *core, int32_t flow)
