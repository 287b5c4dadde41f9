# What is compiled of users.py: the attributes of its class are C's, the code is the Python there.

cimport cython

from fairlead.accounts cimport Account, Counts, Flow, Place
from fairlead.ticket cimport Ticket
from libc.stdint cimport int64_t

cdef int64_t _BUCKET_NS

cdef class Users:
    cdef public dict accounts
    cdef public Counts forgotten
    cdef public int64_t forgotten_users
    cdef public dict series
    cdef int64_t _users_max
    cdef object _idle
    cdef dict _places
    cdef public Account surplus

    @cython.locals(account=Account, flow=Flow)
    cpdef entered(self, Ticket call, int64_t now_ns)
    @cython.locals(flow=Flow)
    cpdef moved(self, Ticket call, int64_t pool, int64_t place, int64_t now_ns)
    @cython.locals(account=Account, flow=Flow)
    cpdef dispatched(self, Ticket call, int64_t now_ns)
    @cython.locals(flow=Flow)
    cpdef requeued(self, Ticket call)
    @cython.locals(account=Account, flow=Flow)
    cpdef ended(self, Ticket call, str outcome, int64_t cost, int64_t now_ns)
    @cython.locals(account=Account)
    cdef Account _admit(self, Ticket call)
    @cython.locals(flow=Flow)
    cdef _forget(self, Account idle)
    @cython.locals(flow=Flow)
    cdef Flow _flow(self, Account account, Place place)
    @cython.locals(place=Place, flow=Flow, bucket=int64_t)
    cdef _join(self, Ticket call, Account account, int64_t pool, int64_t number, int64_t now_ns)

cdef _stopped(Ticket call, Flow flow, int64_t difference)
@cython.locals(each=Flow, waits=int, state=int)
cdef _update(Account account, Flow flow)
