"""The far end of a benchmark, from Python: memory, limits, words, counts. What it does is in farm.pyx."""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from fairlead.load.farm cimport (
    LISTENERS_MAX, MODEL_MAX, NODE_BUFFER, NONCE_DIGITS, NUMBER_DIGITS, TEXT_MAX, TIME_DIGITS, TIMER_NUMBER, Client,
    Farm, Text, farm_turn,
)
from fairlead.load.sockets cimport (
    EDGE, EPOLLIN, descriptors_suffice, epoll_new, now_ns, shut, tcp_listen, tcp_port, timer_new, watch,
)
from fairlead.load.timers cimport timers_free, timers_init
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

import os

OWNER = "fairlead-bench-node"
PLAIN_BYTES = 550  # of a plain answer's body
_NONCE = b"N" * NONCE_DIGITS
_NUMBER = b"#" * NUMBER_DIGITS
_TIME = b"T" * TIME_DIGITS

cdef enum:
    TURN_NS = 50_000_000  # how long stop and signals may have to wait
    SECONDS_MAX = 1_000_000_000


def _head(content_type, framing, status="200 OK"):
    """Of an answer."""
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nServer: {OWNER}\r\n{framing}\r\n\r\n".encode()
    )


def _whole(body, status="200 OK"):
    """An answer of known length."""
    return _head("application/json", f"Content-Length: {len(body)}", status) + body.encode()


def _framed(data):
    """One chunk of HTTP's."""
    return f"{len(data):x}\r\n{data}\r\n".encode()


def _completion(model, content):
    return (
        f'{{"id":"chatcmpl-{_NONCE.decode()}","object":"chat.completion","created":1700000000,"model":"{model}",'
        f'"system_fingerprint":"simulated","choices":[{{"index":0,"message":{{"role":"assistant","content":'
        f'"{content}"}},"logprobs":null,"finish_reason":"stop"}}],"usage":{{"prompt_tokens":256,'
        f'"completion_tokens":64,"total_tokens":320}}}}'
    )


def _texts(model):
    """Everything that is ever said, with marks where it differs."""
    mark = f"bench:{_NONCE.decode()}:"
    said = mark + " simulated"
    padding = "." * max(0, PLAIN_BYTES - len(_completion(model, said)))
    event = (
        f'data: {{"id":"chatcmpl-{_NONCE.decode()}","object":"chat.completion.chunk","created":1700000000,'
        f'"model":"{model}","choices":[{{"index":0,"delta":{{"content":"{mark}{_NUMBER.decode()}:{_TIME.decode()}: "}},'
        f'"logprobs":null,"finish_reason":null    }}]}}\n\n'
    )
    models = f'{{"object":"list","data":[{{"id":"{model}","object":"model","created":0,"owned_by":"{OWNER}"}}]}}'
    return {
        "plain": _whole(_completion(model, said + padding)),
        "head": _head("text/event-stream; charset=utf-8", "Transfer-Encoding: chunked"),
        "event": _framed(event),
        "last": _framed("data: [DONE]\n\n") + b"0\r\n\r\n",
        "models": _whole(models),
        "well": _whole('{"status":"ok"}'),
        "nothing": _whole('{"error":{"message":"a simulated node has no such path"}}', "404 Not Found"),
        "bad": _whole('{"error":{"message":"a simulated node could not read this"}}', "400 Bad Request"),
    }


cdef void write(Text *text, bytes data) except *:
    """Note where the marks are; a mark that is not there is at -1."""
    cdef const char *source = data
    if len(data) > TEXT_MAX:
        raise ValueError(f"a text has {len(data)} bytes: {TEXT_MAX} are allowed")
    memcpy(text.bytes, source, len(data))
    text.size = <int32_t> len(data)
    text.nonce_at[0] = <int32_t> data.find(_NONCE)
    text.nonce_at[1] = <int32_t> data.rfind(_NONCE)
    text.number_at = <int32_t> data.find(_NUMBER)
    text.time_at = <int32_t> data.find(_TIME)
    text.finish_at = <int32_t> data.find(b"null    ")


@cython.final
cdef class Node:
    cdef Farm farm
    cdef int stopped  # written by another thread, and only ever to 1
    cdef readonly tuple ports

    def __cinit__(
        self, ports not None, *, str model="bench", int slots=0, int64_t service_ns=0, int connections_max=1024
    ):
        cdef Farm *farm = &self.farm
        memset(farm, 0, sizeof(Farm))
        farm.epoll = farm.timer = -1
        ports = tuple(ports)
        if not 1 <= len(ports) <= LISTENERS_MAX or not all(0 <= port <= 65535 for port in ports):
            raise ValueError(f"ports are {ports}: they must be 1..{LISTENERS_MAX} numbers, each in 0..65535")
        sound = model.isascii() and model.isprintable() and not set(model) & set('"\\')
        if not 1 <= len(model) <= MODEL_MAX or not sound:
            raise ValueError(f"model is {model!r}: it must have 1..{MODEL_MAX} printable ASCII characters, no quotes")
        for name, value, low, high in (
            ("slots", slots, 0, 1 << 20),
            ("service_ns", service_ns, 0, 10**15),
            ("connections_max", connections_max, 1, 1 << 20),
        ):
            if not low <= value <= high:
                raise ValueError(f"{name} is {value}: it must be in {low}..{high}")
        if not descriptors_suffice(connections_max + LISTENERS_MAX + 16):
            raise OSError(f"{connections_max} connections need more open files than allowed: see ulimit -n")
        farm.capacity = connections_max
        farm.slots = slots
        farm.service_ns = service_ns
        farm.queue_first = farm.queue_last = -1
        farm.armed_ns = INT64_MAX
        self.prepare(_texts(model))
        self.listen(ports)

    cdef prepare(self, dict words):
        """Memory and words."""
        cdef Farm *farm = &self.farm
        cdef size_t count = <size_t> farm.capacity
        cdef size_t i
        write(&farm.plain, words["plain"])
        write(&farm.head, words["head"])
        write(&farm.event, words["event"])
        write(&farm.last, words["last"])
        write(&farm.models, words["models"])
        write(&farm.well, words["well"])
        write(&farm.nothing, words["nothing"])
        write(&farm.bad, words["bad"])
        farm.all = <Client *> calloc(count, sizeof(Client))
        farm.buffers = <char *> calloc(count, 2 * NODE_BUFFER)
        if farm.all == NULL or farm.buffers == NULL or not timers_init(&farm.timers, farm.capacity):
            raise MemoryError
        for i in range(count):
            farm.all[i].fd = -1
            farm.all[i].buffer = farm.buffers + 2 * i * NODE_BUFFER
            farm.all[i].pending = farm.all[i].buffer + NODE_BUFFER
            farm.all[i].next = <int32_t> i + 1 if i + 1 < count else -1

    cdef listen(self, tuple ports):
        cdef Farm *farm = &self.farm
        cdef int fd
        farm.epoll = epoll_new()
        farm.timer = timer_new()
        if farm.epoll < 0 or farm.timer < 0 or not watch(farm.epoll, farm.timer, EPOLLIN | EDGE, TIMER_NUMBER, True):
            raise OSError("the kernel gives no epoll or no timer")
        for port in ports:
            fd = tcp_listen(port)
            if fd < 0:
                raise OSError(-fd, f"port {port}: {os.strerror(-fd)}")
            farm.listeners[farm.listener_count] = fd
            farm.listener_count += 1
            if not watch(farm.epoll, fd, EPOLLIN, <uint32_t> (farm.capacity + farm.listener_count - 1), True):
                raise OSError("the kernel does not watch a listener")
        self.ports = tuple([tcp_port(farm.listeners[i]) for i in range(farm.listener_count)])

    def run(self, double seconds=SECONDS_MAX):
        cdef int64_t now = now_ns()
        cdef int64_t until
        if self.farm.epoll < 0:
            raise ValueError("the node is closed: make another one")
        if not 0 <= seconds <= SECONDS_MAX:
            raise ValueError(f"seconds is {seconds}: it must be in 0..{SECONDS_MAX}")
        until = now + <int64_t> (seconds * 1e9)
        while now < until and not self.stopped:
            with nogil:
                farm_turn(&self.farm, min(until, now + TURN_NS))
            PyErr_CheckSignals()
            now = now_ns()

    def stop(self):
        self.stopped = 1

    def counts(self):
        counted = self.farm.served
        return counted | {"running": self.farm.running, "waiting": self.farm.waiting}

    def close(self):
        cdef Farm *farm = &self.farm
        cdef int32_t i
        for i in range(farm.capacity if farm.all != NULL else 0):
            shut(farm.all[i].fd)
            farm.all[i].fd = -1
        for i in range(farm.listener_count):
            shut(farm.listeners[i])
        farm.listener_count = 0
        shut(farm.epoll)
        shut(farm.timer)
        farm.epoll = farm.timer = -1

    def __dealloc__(self):
        self.close()
        free(self.farm.all)
        free(self.farm.buffers)
        timers_free(&self.farm.timers)
