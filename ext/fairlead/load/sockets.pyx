"""Non-blocking TCP on epoll, and the clock.

Promise: no call blocks, none raises; what the kernel refuses comes back as a negative errno. Every socket has
TCP_NODELAY, as a token that waits for a full segment is no stream.
"""

from libc.errno cimport errno
from libc.stdint cimport INT64_MAX, int64_t, uint32_t
from libc.string cimport memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, itimerspec, timespec
from posix.unistd cimport close

cdef extern from "<sys/epoll.h>" nogil:
    enum:
        EPOLL_CLOEXEC
        EPOLL_CTL_ADD
        EPOLL_CTL_MOD
    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int operation, int fd, epoll_event *event)

cdef extern from "<sys/timerfd.h>" nogil:
    enum:
        TFD_NONBLOCK
        TFD_CLOEXEC
        TFD_TIMER_ABSTIME
    int timerfd_create(int clock, int flags)
    int timerfd_settime(int fd, int flags, const itimerspec *new, itimerspec *old)

cdef extern from "<sys/resource.h>" nogil:
    enum:
        RLIMIT_NOFILE
    struct rlimit:
        unsigned long rlim_cur
    int getrlimit(int resource, rlimit *limit)

# What Cython says badly: casts between the kinds of socket address, and options passed by pointer.
cdef extern from *:
    """
    #include <arpa/inet.h>
    #include <netinet/in.h>
    #include <netinet/tcp.h>
    #include <string.h>
    #include <sys/socket.h>

    static int fairlead_option(int fd, int level, int name) {
        int on = 1;
        return setsockopt(fd, level, name, &on, sizeof on);
    }
    static socklen_t fairlead_address(struct sockaddr_storage *to, const char *text, int port) {
        struct sockaddr_in *four = (struct sockaddr_in *) to;
        struct sockaddr_in6 *six = (struct sockaddr_in6 *) to;
        memset(to, 0, sizeof *to);
        if (inet_pton(AF_INET, text, &four->sin_addr) == 1) {
            four->sin_family = AF_INET;
            four->sin_port = htons((unsigned short) port);
            return sizeof *four;
        }
        if (inet_pton(AF_INET6, text, &six->sin6_addr) == 1) {
            six->sin6_family = AF_INET6;
            six->sin6_port = htons((unsigned short) port);
            return sizeof *six;
        }
        return 0;
    }
    static int fairlead_socket(int family) {
        return socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    }
    static int fairlead_bind(int fd, const struct sockaddr_storage *to, socklen_t size) {
        return bind(fd, (const struct sockaddr *) to, size);
    }
    static int fairlead_connect(int fd, const struct sockaddr_storage *to, socklen_t size) {
        return connect(fd, (const struct sockaddr *) to, size);
    }
    static int fairlead_accept(int fd) {
        return accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    }
    static int fairlead_port(int fd) {
        struct sockaddr_in in;
        socklen_t size = sizeof in;
        return getsockname(fd, (struct sockaddr *) &in, &size) < 0 ? -1 : ntohs(in.sin_port);
    }
    static int fairlead_error(int fd) {
        int error = 0;
        socklen_t size = sizeof error;
        return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0 ? -1 : error;
    }
    """
    enum:
        IPPROTO_TCP
        TCP_NODELAY
        SOL_SOCKET
        SO_REUSEADDR
        EINPROGRESS
    ctypedef unsigned int socklen_t
    struct sockaddr_storage:
        unsigned short ss_family
    int fairlead_option(int fd, int level, int name) nogil
    socklen_t fairlead_address(sockaddr_storage *to, const char *text, int port) nogil
    int fairlead_socket(int family) nogil
    int fairlead_bind(int fd, const sockaddr_storage *to, socklen_t size) nogil
    int fairlead_connect(int fd, const sockaddr_storage *to, socklen_t size) nogil
    int fairlead_accept(int fd) nogil
    int fairlead_port(int fd) nogil
    int fairlead_error(int fd) nogil
    int listen(int fd, int backlog) nogil

cdef enum:
    BACKLOG = 16384  # the kernel takes at most net.core.somaxconn


cdef int64_t now_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t> now.tv_sec * 1_000_000_000 + now.tv_nsec


cdef int epoll_new() noexcept nogil:
    cdef int fd = epoll_create1(EPOLL_CLOEXEC)
    return fd if fd >= 0 else -errno


cdef int timer_new() noexcept nogil:
    cdef int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)
    return fd if fd >= 0 else -errno


cdef void timer_arm(int timer, int64_t at_ns) noexcept nogil:
    cdef itimerspec when
    memset(&when, 0, sizeof(when))
    if at_ns < INT64_MAX:  # all zero disarms it
        when.it_value.tv_sec = at_ns // 1_000_000_000
        when.it_value.tv_nsec = at_ns % 1_000_000_000
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL)


cdef int given_up(int fd) noexcept nogil:
    """-errno; closes what was begun."""
    cdef int error = errno
    shut(fd)
    return -error


cdef int tcp_listen(int port) noexcept nogil:
    """On 127.0.0.1; port 0: any that is free."""
    cdef sockaddr_storage to
    cdef socklen_t size = fairlead_address(&to, b"127.0.0.1", port)
    cdef int fd = fairlead_socket(to.ss_family)
    if (
        fd < 0 or fairlead_option(fd, SOL_SOCKET, SO_REUSEADDR) < 0 or fairlead_bind(fd, &to, size) < 0
        or listen(fd, BACKLOG) < 0
    ):
        return given_up(fd)
    return fd


cdef int tcp_port(int fd) noexcept nogil:
    return fairlead_port(fd)


cdef int tcp_accept(int listener) noexcept nogil:
    cdef int fd = fairlead_accept(listener)
    if fd < 0:
        return -errno
    fairlead_option(fd, IPPROTO_TCP, TCP_NODELAY)
    return fd


cdef int tcp_connect(const char *address, int port) noexcept nogil:
    """Under way: the descriptor becomes writable when it is decided, and tcp_error says how. address: in digits."""
    cdef sockaddr_storage to
    cdef socklen_t size = fairlead_address(&to, address, port)
    cdef int fd = fairlead_socket(to.ss_family)
    if (
        fd < 0 or fairlead_option(fd, IPPROTO_TCP, TCP_NODELAY) < 0
        or (fairlead_connect(fd, &to, size) < 0 and errno != EINPROGRESS)
    ):
        return given_up(fd)
    return fd


cdef int tcp_error(int fd) noexcept nogil:
    return fairlead_error(fd)


cdef bint watch(int epoll, int fd, uint32_t events, uint32_t number, bint first) noexcept nogil:
    cdef epoll_event event
    memset(&event, 0, sizeof(event))
    event.events = events
    event.data.u32 = number
    return epoll_ctl(epoll, EPOLL_CTL_ADD if first else EPOLL_CTL_MOD, fd, &event) == 0


cdef void shut(int fd) noexcept nogil:
    if fd >= 0:
        close(fd)


cdef bint descriptors_suffice(int64_t wanted) noexcept nogil:
    cdef rlimit limit
    return getrlimit(RLIMIT_NOFILE, &limit) < 0 or wanted <= <int64_t> limit.rlim_cur
