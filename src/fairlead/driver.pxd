# What is compiled of driver.py: the attributes of its classes are C's, the code is the Python there.

cimport cython

from fairlead.places cimport Places
from fairlead.rate cimport DrainRate
from fairlead.ticket cimport Ticket
from libc.stdint cimport int64_t

cdef class Driver:
    cdef readonly object now_ns
    cdef readonly object _loop
    cdef readonly object _scheduler
    cdef readonly Places _places
    cdef readonly dict _tickets
    cdef readonly object _timers
    cdef set _due
    cdef readonly dict _rates
    cdef object _random
    cdef public object _timer
    cdef Py_ssize_t _decisions_max
    cdef int64_t _armed_ns
    cdef bint _pumping
    cdef bint _again

    cpdef int64_t submit(self, Ticket ticket) except? 0x5eed
    cpdef bint cancel(self, Ticket ticket) except -1
    @cython.locals(rate=DrainRate)
    cpdef bint finish(self, Ticket ticket, int outcome, int64_t cost) except -1
    @cython.locals(found=tuple)
    cpdef tuple find_place(self, int64_t pool, int tier, str team, bint cheap)
    cpdef set_timer(self, Ticket ticket, int64_t at_ns)
    cpdef _pump(self, int64_t now_ns)
    @cython.locals(ticket=Ticket, dispatched=Ticket, rate=DrainRate)
    cpdef _tell(self, list decisions, int64_t now_ns)
    cpdef _forget(self, Ticket ticket)
    cpdef _arm(self)
    cpdef _arm_at(self, int64_t at_ns)
