"""Non-blocking TCP on epoll, and the clock: all that the node and the generator ask of Linux; bodies in sockets.pyx."""

from libc.stdint cimport int32_t, int64_t, uint32_t

cdef extern from "fairlead.h" nogil:
    void CHECK(bint condition)

cdef extern from "<sys/epoll.h>" nogil:
    enum:
        EPOLLIN
        EPOLLOUT
    ctypedef union epoll_data_t:
        uint32_t u32
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_wait(int epoll, epoll_event *events, int events_max, int timeout_ms)

cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_NOSIGNAL
    ssize_t send(int fd, const void *data, size_t size, int flags)
    ssize_t recv(int fd, void *buffer, size_t size, int flags)

# GNU's and POSIX's, which Cython has no declaration of.
cdef extern from "<string.h>" nogil:
    void *memmem(const void *hay, size_t hay_size, const void *needle, size_t needle_size)

cdef extern from "<strings.h>" nogil:
    int strncasecmp(const char *a, const char *b, size_t size)

cdef enum:
    EVENTS_MAX = 256
    EDGE = 1 << 31  # EPOLLET: tell it once

# CLOCK_MONOTONIC, which all processes of a machine share.
cdef int64_t now_ns() noexcept nogil

# Descriptors, or -errno.
cdef int epoll_new() noexcept nogil
cdef int timer_new() noexcept nogil
cdef int tcp_listen(int port) noexcept nogil
cdef int tcp_port(int fd) noexcept nogil
cdef int tcp_accept(int listener) noexcept nogil
cdef int tcp_connect(const char *address, int port) noexcept nogil

# 0, or the errno with which a connection attempt ended.
cdef int tcp_error(int fd) noexcept nogil

# Ask for events of fd (first time: add), under this number. False: the kernel would not.
cdef bint watch(int epoll, int fd, uint32_t events, uint32_t number, bint first) noexcept nogil

# Let the timer's descriptor become readable at that time; INT64_MAX: never.
cdef void timer_arm(int timer, int64_t at_ns) noexcept nogil

# Close it if it is one.
cdef void shut(int fd) noexcept nogil

# False: no more than so many descriptors may be open in this process, and it asks for more.
cdef bint descriptors_suffice(int64_t wanted) noexcept nogil

# Whole milliseconds from now until then, upwards; 0 if it has come.
cdef inline int wait_ms(int64_t now, int64_t until) noexcept nogil:
    return 0 if until <= now else <int> min((until - now + 999_999) // 1_000_000, <int64_t> 1_000)
