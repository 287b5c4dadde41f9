# What is compiled of accounts.py: the attributes of its classes are C's, the code is the Python there. What counts in
# 2**-40 of cost outgrows C's integers and stays an object.

cimport cython

from libc.stdint cimport int64_t

cdef class Counts:
    cdef public dict outcomes
    cdef public int64_t service
    cdef public int64_t input
    cdef public int64_t cached
    cdef public int64_t output

    cpdef count(self, str outcome, int64_t cost, tokens)
    cpdef add(self, Counts other)

cdef class Account:
    cdef public object key
    cdef public str name
    cdef public Counts series
    cdef public Counts counts
    cdef public dict flows
    cdef public int64_t held
    cdef public int64_t running
    cdef public int64_t running_max

cdef class Tally:
    cdef public int64_t bucket
    cdef public bint live
    cdef public int64_t service
    cdef public object claim
    cdef public object would_have
    cdef public int64_t waits
    cdef public int64_t wait_ns
    cdef public int64_t wait_max_ns

cdef class Place:
    cdef public int64_t number
    cdef public tuple what
    cdef public int64_t bucket
    cdef public int64_t present
    cdef public int64_t contending
    cdef public int64_t touched
    cdef public object served
    cdef public object presence
    cdef public object contended
    cdef public object marks

    cpdef turn(self, int64_t bucket)
    cdef serve(self, object cost)

cdef class Flow:
    cdef public Account account
    cdef public Place place
    cdef public int64_t weight
    cdef public int64_t waiting
    cdef public int64_t running
    cdef public int state
    cdef public int64_t last
    cdef public int64_t bucket
    cdef public object presence
    cdef public object contended
    cdef public object recent
    cdef public int64_t service
    cdef public object claim
    cdef public object would_have
    cdef public int64_t waits
    cdef public int64_t wait_ns
    cdef public double fair
    cdef public int64_t dealt

    @cython.locals(tally=Tally)
    cdef Tally tally(self, int64_t bucket)
    @cython.locals(tally=Tally)
    cdef _expire(self, int64_t bucket)
    @cython.locals(mine=Tally, theirs=Tally)
    cpdef absorb(self, Flow other)
    cpdef bint look(self, int64_t bucket) except -1
    cdef bint _touches(self) except -1
    @cython.locals(place=Place, tally=Tally)
    cpdef Tally dispatched(self, int64_t cost, int64_t wait_ns)
    cpdef correct(self, Tally tally, int64_t difference)
    @cython.locals(place=Place, difference=int64_t)
    cpdef weigh(self, int64_t weight)
    @cython.locals(place=Place, was=int, weight=int64_t)
    cpdef change(self, int state)
    @cython.locals(place=Place, tally=Tally)
    cdef _settle(self)
    @cython.locals(tally=Tally)
    cdef _contend(self, int64_t bucket, object contended)

cdef class Division:
    cdef readonly list flows
    cdef readonly object service
    cdef object shared
    cdef list sharing
    cdef list demand
    cdef list claims

    cpdef add(self, Flow flow)
