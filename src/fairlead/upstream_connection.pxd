# What is compiled of upstream_connection.py: the attributes of its class are C's, the code is the Python there.

cimport cython

cdef bytes START, LENGTH, CODING
cdef int HEAD_MAX_BYTES, HEADERS_MAX, ONE_WRITE_BYTES

cdef class Owner:
    cdef readonly object loop

    cpdef opened(self)
    cpdef gone(self)
    cpdef bint keep(self, Connection connection) except -1
    cpdef distrust(self, Connection connection)
    cpdef retry(self, exchange, bytes head, bytes body, bint paused)

cdef class Connection:
    cdef Owner _owner
    cdef readonly object _transport
    cdef object _parser
    cdef object _poller
    cdef object _exchange
    cdef bytes _head
    cdef bytes _body
    cdef list _headers
    cdef Py_ssize_t _started
    cdef Py_ssize_t _unsent
    cdef Py_ssize_t _header_bytes
    cdef Py_ssize_t _overhead
    cdef int _header_count
    cdef int _continues
    cdef bint _complete
    cdef bint _dead
    cdef bint _head_done
    cdef bint _keep_alive
    cdef bint _paused
    cdef bint _reused
    cdef bint _sized
    cdef bint _writable
    cdef readonly bint adopted
    cdef readonly object early
    cdef public double idle_since

    cpdef begin(self, exchange, bytes head, bytes body, bint reused)
    cpdef bint quiet(self)
    cpdef pause(self)
    cpdef resume(self)
    cpdef abort(self)
    cpdef drop(self)
    cdef _reset(self, bytes head, bytes body, bint reused)
    cdef _send_more(self)
    cdef _tell_read(self, exchange)
    @cython.locals(last=bytes)
    cdef _feed(self, bytes data)
    cdef _look_at_start(self, bytes data)
    cdef _end(self, bint surplus)
    cdef _lose(self, kind, detail)
    cdef _detach(self)
    cdef _node_left(self, kind, detail)
    cdef _idle_noise(self, kind, detail)
    cdef _callback_raised(self, error)
