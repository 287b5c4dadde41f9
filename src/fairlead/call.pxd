# What is compiled of call.py: the attributes of its classes are C's, the code is the Python there.

cimport cython

from fairlead.driver cimport Driver
from fairlead.headers cimport NodeHead
from fairlead.metrics cimport Meter
from fairlead.ticket cimport Ticket
from fairlead.upstream cimport Pool
from libc.stdint cimport int64_t

cdef int QUEUED, CONNECTING, SENT, STREAMING, DONE

cdef class Surroundings:
    cdef public Driver driver
    cdef public object nodes
    cdef public Meter meter
    cdef public object place_of
    cdef public int64_t first_byte_ns
    cdef public int64_t idle_ns

cdef class Outgoing:
    cdef public str request_id
    cdef public str path
    cdef public str target
    cdef public bytes headers
    cdef public bytes body
    cdef public str model
    cdef public bint stream

cdef class Call(Ticket):
    # set once
    cdef public object carrier
    cdef public Outgoing outgoing
    cdef public Surroundings surroundings
    cdef public int64_t total_deadline_ns
    # the queue's side
    cdef public object estimate_s
    cdef public bint never_wait
    cdef public int64_t position
    cdef public int64_t queued_ns
    cdef public bint waited
    # the node's side
    cdef public int64_t connected_ns
    cdef public object error
    cdef public int64_t first_byte_ns
    cdef public int64_t last_byte_ns
    cdef public object link
    cdef public object node
    cdef public NodeHead node_head
    cdef public bint paused
    cdef public int state
    cdef public int status
    cdef public bint stream
    cdef public bint whole_event

    @cython.locals(surroundings=Surroundings, outgoing=Outgoing, pool=Pool, body=bytes)
    cpdef on_dispatch(self, node, now_ns)
    @cython.locals(head=NodeHead)
    cpdef on_head(self, int status, list raw)
    cpdef client_gone(self)
    cpdef pause(self)
    cpdef resume(self)
    cpdef abort(self)
    cdef int64_t _due_ns(self) except? -1
    cdef _relay(self, bytes data)
    @cython.locals(head=NodeHead, lines=bytes)
    cdef _commit(self)
    @cython.locals(was=int)
    cdef _fail(self, error, bint charged=*)
    cdef _tell(self, int was, error)
    cdef _last_event(self, error)
    @cython.locals(was=int, driver=Driver, cost=int64_t)
    cdef _end(self, int outcome, str word, bint charged=*)
    cdef int64_t _price(self, int outcome, int was) except? -1
