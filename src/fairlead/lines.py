"""Lines for somebody who may read slowly, or not at all: a terminal, a pipe, a full disk.

Promise: ``write`` never waits and never fails. It puts a line into a bounded buffer; a thread of its own does the
writing, in batches of whole lines. When the buffer is full, or what is written to is gone or full, lines are lost and
counted. ``close`` ends within its time whoever reads or does not.

Theory. The descriptor keeps the mode that it has: one that came from outside is shared with whoever else writes to the
terminal, and O_NONBLOCK would be theirs too. So the thread blocks, and may do so for ever; it is a daemon, which the
process does not wait for. To a pipe at most PIPE_BUF bytes are written at once, because these stay together whoever
else writes there; only a single longer line may be torn. Numbers that two threads look at are each written by one.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import select
import stat
import sys
import threading
import time
from collections import deque
from typing import Final

log = logging.getLogger("fairlead.lines")

BUFFER_MAX: Final = 4 << 20  # bytes that may wait to be written
FLUSH_S: Final = 0.5  # what close waits for a reader
GATHER_S: Final = 0.05  # so long a batch is filled: else every line would wake the thread
WARN_EVERY_S: Final = 60.0
STREAMS: Final = {"stdout": 1, "stderr": 2}
_FILE_BATCH: Final = 1 << 16
_MODE: Final = 0o640


def open_target(target: str) -> int:
    """A descriptor of one's own to append to: "stdout", "stderr" or a path. Raises OSError."""
    if target in STREAMS:
        # Where the process was started without one, the number may be a client's connection by now.
        if getattr(sys, f"__{target}__") is None:
            raise OSError(errno.EBADF, "is closed")
        return fcntl.fcntl(STREAMS[target], fcntl.F_DUPFD_CLOEXEC, 3)
    # Not waiting for the reader of a named pipe; this open file is ours alone, so its mode may be set.
    fd = os.open(target, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, _MODE)
    os.set_blocking(fd, True)
    return fd


def _ends_in_half_a_line(fd: int) -> bool:
    """The disk was full, or the machine went down, when somebody wrote there before. Where the descriptor can't be
    opened again to be read, nobody knows."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        return False
    try:
        with open(f"/dev/fd/{fd}", "rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() != b"\n"
    except OSError:  # also of an empty file
        return False


class Lines:
    """what: how warnings call it. The descriptor belongs to it from here on."""

    def __init__(self, what: str, fd: int, *, buffer_max: int = BUFFER_MAX) -> None:
        self._what = what
        self._fd = fd
        self._buffer_max = buffer_max
        self._batch_max = _FILE_BATCH if stat.S_ISREG(os.fstat(fd).st_mode) else select.PIPE_BUF
        self._queue: deque[bytes] = deque()
        self._put_bytes = self._unbuffered = 0  # the writer's side
        self._taken_bytes = self._unwritten = self._told = 0  # the thread's side
        self._gone = False  # nobody will ever read
        self._torn = _ends_in_half_a_line(fd)  # the next one begins with a line end
        self._warned_s = -WARN_EVERY_S
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=what, daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """A whole line with its end. From one thread at a time."""
        size = len(line)
        if self._gone or self._put_bytes - self._taken_bytes + size > self._buffer_max:
            self._unbuffered += 1
            return
        self._put_bytes += size
        self._queue.append(line)
        if not self._wake.is_set():
            self._wake.set()

    @property
    def lost(self) -> int:
        """Lines that were not written and will not be."""
        return self._unbuffered + self._unwritten

    async def close(self, timeout_s: float = FLUSH_S) -> None:
        """Write what is left, as far as that goes in time. Nothing is written after it."""
        self._closing.set()
        self._wake.set()
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        while self._thread.is_alive() and loop.time() < until:  # noqa: ASYNC110  once in a life
            await asyncio.sleep(0.005)
        self._gone = True
        if self._thread.is_alive() and self._queue:
            log.warning("%s: nobody reads: at least %d lines were not written at the end", self._what, len(self._queue))

    # The thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._closing.is_set() or self._queue:
                self._wake.wait()
                self._closing.wait(GATHER_S)
                self._wake.clear()
                while self._queue:
                    self._put(self._take())
                if self._unbuffered > self._told and not self._gone:
                    self._told = self._unbuffered
                    self._warn(f"it was read too slowly: {self.lost} lines are lost so far")
        finally:
            os.close(self._fd)

    def _take(self) -> bytes:
        lines = [self._queue.popleft()]
        size = len(lines[0])
        while self._queue and size + len(self._queue[0]) <= self._batch_max:
            lines.append(self._queue.popleft())
            size += len(lines[-1])
        self._taken_bytes += size
        return b"".join(lines)

    def _put(self, batch: bytes) -> None:
        if self._gone:
            self._unwritten += batch.count(b"\n")
            return
        mended = self._torn
        if mended:
            batch = b"\n" + batch
        done = 0
        try:
            while done < len(batch):
                done += self._write_some(batch[done:])
            self._torn = False
        except OSError as error:
            rest = batch[done:]
            self._unwritten += rest.count(b"\n") - (mended and not done)
            self._torn = not batch[:done].endswith(b"\n") if done else mended
            if error.errno == errno.EPIPE:
                self._gone = True
                self._warn("whoever read it is gone: nothing is written any more", always=True)
            else:
                self._warn(f"{os.strerror(error.errno or 0)}: {self.lost} lines are lost so far")

    def _write_some(self, data: bytes) -> int:
        try:
            return os.write(self._fd, data)
        except BlockingIOError:  # somebody else has set O_NONBLOCK
            poll = select.poll()
            poll.register(self._fd, select.POLLOUT)
            poll.poll()
            return 0

    def _warn(self, message: str, *, always: bool = False) -> None:
        now_s = time.monotonic()
        if always or now_s - self._warned_s >= WARN_EVERY_S:
            self._warned_s = now_s
            log.warning("%s: %s", self._what, message)


class LineHandler(logging.Handler):
    """Logging that waits for nobody: records become lines."""

    def __init__(self, lines: Lines) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.write(self.format(record).encode("utf-8", "backslashreplace") + b"\n")
        except Exception:
            self.handleError(record)
