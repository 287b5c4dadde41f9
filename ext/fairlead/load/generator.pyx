"""The client side of a benchmark, from Python: memory, limits, counts. What it does is in client.pyx."""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from fairlead.load.answer cimport ANSWER_BUFFER
from fairlead.load.client cimport (
    ADDRESS_MAX, BACKLOG_MAX, FAULTS, NONCE_DIGITS, NONCE_MODULUS, STATUS_MAX, TIMER_NUMBER, USER_DIGITS, Connection,
    Load, Tally, turn,
)
from fairlead.load.histogram cimport histogram_pairs
from fairlead.load.sockets cimport EDGE, EPOLLIN, descriptors_suffice, epoll_new, now_ns, shut, timer_new, watch
from fairlead.load.timers cimport timers_free, timers_init
from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

import socket

cdef enum:
    TURN_NS = 50_000_000       # how long a signal may have to wait
    REQUESTS_BYTES_MAX = 1 << 30
    SECONDS_MAX = 1_000_000_000

FAULT_NAMES = (
    "refused", "cut", "broken_http", "status", "wrong_nonce", "wrong_length", "bad_stream", "timeout",
)
assert len(FAULT_NAMES) == FAULTS


def _in_digits(address):
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    except OSError:
        return False
    return True


@cython.final
cdef class Generator:
    cdef Load load

    def __cinit__(
        self, str address not None, int port, bytes request not None, *, int64_t nonce_at, int64_t user_at=-1,
        int64_t users=1, int connections=1, double rate=0.0, bint stream=False, bint echo=False, int64_t length=0,
        int64_t timeout_ns=60_000_000_000, uint64_t seed=1,
    ):
        cdef Load *load = &self.load
        cdef bytes host = address.encode()
        memset(load, 0, sizeof(Load))
        load.epoll = load.timer = load.idle = -1
        if len(host) >= ADDRESS_MAX or not _in_digits(address):
            raise ValueError(f"address is {address!r}: it must be an IPv4 or IPv6 address in digits")
        for name, value, low, high in (
            ("port", port, 1, 65535),
            ("connections", connections, 1, 1 << 20),
            ("users", users, 1, 10**USER_DIGITS),
            ("nonce_at", nonce_at, 0, len(request) - NONCE_DIGITS),
            ("user_at", user_at, -1, len(request) - USER_DIGITS),
            ("rate", rate, 0, 10**7),
            ("length", length, 0, 1 << 40),
            ("timeout_ns", timeout_ns, 1, 10**16),
            ("connections x size of the request", connections * len(request), 1, REQUESTS_BYTES_MAX),
        ):
            if not low <= value <= high:
                raise ValueError(f"{name} is {value}: it must be in {low}..{high}")
        if not descriptors_suffice(connections + 64):
            raise OSError(f"{connections} connections need more open files than this process may have: see ulimit -n")
        memcpy(load.plan.address, <const char *> host, len(host))
        load.plan.port = port
        load.plan.connections = connections
        load.plan.request_size = len(request)
        load.plan.nonce_at = nonce_at
        load.plan.user_at = user_at
        load.plan.users = users
        load.plan.interval_ns = 1e9 / rate if rate > 0 else 0.0
        load.plan.stream = stream
        load.plan.echo = echo
        load.plan.length = length
        load.plan.timeout_ns = timeout_ns
        load.random = seed * <uint64_t> 0x9E3779B97F4A7C15 | 1
        load.nonce = <int64_t> (load.random % NONCE_MODULUS)
        self.prepare(request)

    cdef prepare(self, bytes request):
        """The memory and the descriptors."""
        cdef Load *load = &self.load
        cdef size_t count = <size_t> load.plan.connections
        cdef const char *source = request
        cdef size_t i
        load.all = <Connection *> calloc(count, sizeof(Connection))
        load.requests = <char *> calloc(count, <size_t> load.plan.request_size)
        load.buffers = <char *> calloc(count, ANSWER_BUFFER)
        load.backlog = <int64_t *> calloc(BACKLOG_MAX, sizeof(int64_t))
        if (
            load.all == NULL or load.requests == NULL or load.buffers == NULL or load.backlog == NULL
            or not timers_init(&load.timers, load.plan.connections)
        ):
            raise MemoryError
        for i in range(count):
            load.all[i].fd = -1
            load.all[i].request = load.requests + i * <size_t> load.plan.request_size
            load.all[i].answer.buffer = load.buffers + i * ANSWER_BUFFER
            memcpy(load.all[i].request, source, <size_t> load.plan.request_size)
        load.epoll = epoll_new()
        load.timer = timer_new()
        if load.epoll < 0 or load.timer < 0 or not watch(load.epoll, load.timer, EPOLLIN | EDGE, TIMER_NUMBER, True):
            raise OSError("the kernel gives no epoll or no timer")

    def run(self, double seconds):
        cdef int64_t now = now_ns()
        cdef int64_t until
        self.check_open()
        if not 0 <= seconds <= SECONDS_MAX:
            raise ValueError(f"seconds is {seconds}: it must be in 0..{SECONDS_MAX}")
        if self.load.next_ns == 0:
            self.load.next_ns = now
        until = now + <int64_t> (seconds * 1e9)
        while now < until:
            with nogil:
                turn(&self.load, min(until, now + TURN_NS))
            PyErr_CheckSignals()
            now = now_ns()

    def finish(self, double seconds):
        cdef int64_t until = now_ns() + <int64_t> (seconds * 1e9)
        self.check_open()
        self.load.stopping = True
        while self.load.busy > 0 and now_ns() < until:
            with nogil:
                turn(&self.load, now_ns() + 1_000_000)
            PyErr_CheckSignals()
        return self.load.busy

    def reset(self):
        memset(&self.load.tally, 0, sizeof(Tally))

    def counts(self):
        cdef Load *load = &self.load
        cdef Tally *tally = &load.tally
        return {
            "good": tally.good,
            "chunks": tally.chunks,
            "bytes": tally.bytes,
            "length": tally.length,
            "connects": tally.connects,
            "arrivals": tally.arrivals,
            "missed": tally.missed,
            "stale": tally.stale,
            "faults": {name: tally.faults[i] for i, name in enumerate(FAULT_NAMES) if tally.faults[i]},
            "statuses": {i: tally.statuses[i] for i in range(STATUS_MAX) if tally.statuses[i]},
            "latency": histogram_pairs(&tally.latency),
            "first": histogram_pairs(&tally.first),
            "gap": histogram_pairs(&tally.gap),
            "transit": histogram_pairs(&tally.transit),
            "lag": histogram_pairs(&tally.lag),
            "busy": load.busy,
            "flowing": load.flowing,
            "unsent": load.backlog_size,
        }

    def close(self):
        cdef int32_t number
        for number in range(self.load.plan.connections if self.load.all != NULL else 0):
            shut(self.load.all[number].fd)
            self.load.all[number].fd = -1
        shut(self.load.epoll)
        shut(self.load.timer)
        self.load.epoll = self.load.timer = -1

    def __dealloc__(self):
        self.close()
        free(self.load.all)
        free(self.load.requests)
        free(self.load.buffers)
        free(self.load.backlog)
        timers_free(&self.load.timers)

    cdef check_open(self):
        if self.load.epoll < 0:
            raise ValueError("the generator is closed: make another one")
