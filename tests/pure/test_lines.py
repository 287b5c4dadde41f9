"""Lines to whoever reads slowly, not at all, or not any more: real pipes, files and devices."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import struct
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fairlead.lines import FLUSH_S, LineHandler, Lines, open_target

LINE = b"x" * 99 + b"\n"
WAIT_S = 5.0


def until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.002)


def close(lines: Lines) -> float:
    """Seconds that it took."""
    begun = time.monotonic()
    asyncio.run(lines.close())
    return time.monotonic() - begun


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "fairlead.lines"]


def read_all(fd: int) -> bytes:
    pieces = []
    while piece := os.read(fd, 65536):
        pieces.append(piece)
    os.close(fd)
    return b"".join(pieces)


def test_what_is_written_arrives_in_order_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"before\n")
    lines = Lines("the log", open_target(str(path)))
    written = [b"%d\n" % number for number in range(20_000)]
    for line in written:
        lines.write(line)
    close(lines)
    assert path.read_bytes() == b"before\n" + b"".join(written)
    assert lines.lost == 0
    assert path.stat().st_mode & 0o777 in (0o640, 0o644)  # it was there; a new one is the group's at most
    lines.write(LINE)  # too late
    assert lines.lost == 1


def test_a_line_does_not_wait_for_the_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    lines = Lines("the log", open_target(str(path)))
    lines.write(LINE)
    until(lambda: path.read_bytes() == LINE)
    assert path.stat().st_mode & 0o037 == 0
    close(lines)


def filled(reader: int, lines: Lines) -> int:
    """Write until the pipe is full and the thread waits for a reader. Lines that were written."""
    count, before = 0, -1
    while True:
        for _ in range(200):
            lines.write(LINE)
        count += 200
        time.sleep(0.1)
        there = struct.unpack("i", fcntl.ioctl(reader, termios.FIONREAD, b"    "))[0]
        if there == before:
            return count
        before = there


def test_a_pipe_that_nobody_reads_loses_lines_not_time(caplog: pytest.LogCaptureFixture) -> None:
    reader, writer = os.pipe()
    lines = Lines("the log", writer, buffer_max=200_000)
    count = filled(reader, lines)
    assert lines.lost == 0
    begun = time.monotonic()
    while lines.lost < 100:
        lines.write(LINE)
        count += 1
    assert time.monotonic() - begun < 1.0
    assert close(lines) < FLUSH_S + 0.5
    assert warnings(caplog)[-1].startswith("the log: nobody reads: at least ")
    got = read_all(reader)  # the thread goes on, and ends, when somebody does; what waited counts as lost
    assert got == LINE * (len(got) // len(LINE))
    assert len(got) // len(LINE) + lines.lost == count


def test_a_slow_reader_is_told_of_once_and_gets_whole_lines(caplog: pytest.LogCaptureFixture) -> None:
    reader, writer = os.pipe()
    lines = Lines("the log", writer, buffer_max=10_000)
    until(lambda: lines.write(LINE) or lines.lost >= 10)
    got = bytearray()
    thread = threading.Thread(target=lambda: got.extend(read_all(reader)))
    thread.start()
    until(lambda: bool(warnings(caplog)))
    lost = lines.lost
    lines.write(LINE)
    close(lines)
    thread.join()
    assert bytes(got) == LINE * (len(got) // len(LINE))
    assert warnings(caplog) == [f"the log: it was read too slowly: {lost} lines are lost so far"]


def test_a_pipe_whose_reader_has_gone_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    reader, writer = os.pipe()
    lines = Lines("the log", writer)
    lines.write(LINE)
    assert os.read(reader, 4096) == LINE
    os.close(reader)
    for _ in range(3):
        lines.write(LINE)
    until(lambda: lines.lost == 3)
    lines.write(LINE)
    assert lines.lost == 4
    assert close(lines) < FLUSH_S
    assert warnings(caplog) == ["the log: whoever read it is gone: nothing is written any more"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_loses_lines_and_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    lines = Lines("the log", open_target("/dev/full"))
    lines.write(LINE)
    until(lambda: lines.lost == 1)
    lines.write(LINE)
    lines.write(LINE)
    close(lines)
    assert lines.lost == 3
    assert warnings(caplog) == ["the log: No space left on device: 1 lines are lost so far"]


def test_after_half_a_line_the_next_one_begins_a_new_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full in the middle of a line, then there is room again."""
    path = tmp_path / "log"
    lines = Lines("the log", open_target(str(path)))
    real, room = os.write, [0]

    def limited(fd: int, data: bytes) -> int:
        if fd != lines._fd:
            return real(fd, data)
        if not room[0]:
            raise OSError(28, "No space left on device")
        size = real(fd, data[: room[0]])
        room[0] -= size
        return size

    monkeypatch.setattr(os, "write", limited)
    lines.write(LINE)  # nothing of it is there, so no line end is missing
    until(lambda: lines.lost == 1)
    room[0] = 130
    lines.write(LINE + LINE.upper() + LINE)
    until(lambda: lines.lost == 3)
    lines.write(LINE)  # still full
    until(lambda: lines.lost == 4)
    room[0] = 10_000
    lines.write(b"y\n")
    until(lambda: path.read_bytes().endswith(b"y\n"))
    lines.write(b"z\n")
    close(lines)
    assert path.read_bytes() == LINE + b"X" * 30 + b"\ny\nz\n"
    assert lines.lost == 4


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="a descriptor can't be opened again")
def test_half_a_line_of_an_earlier_process_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(LINE + b"half")
    for line in (b"a\n", b"b\n"):
        lines = Lines("the log", open_target(str(path)))
        lines.write(line)
        close(lines)
        assert lines.lost == 0
    assert path.read_bytes() == LINE + b"half\na\nb\n"


def test_a_descriptor_that_somebody_made_non_blocking_is_waited_for() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    lines = Lines("the log", writer)
    for _ in range(2000):  # three pipes full
        lines.write(LINE)
    time.sleep(0.2)
    got = bytearray()
    thread = threading.Thread(target=lambda: got.extend(read_all(reader)))
    thread.start()
    asyncio.run(lines.close(WAIT_S))
    thread.join()
    assert (bytes(got), lines.lost) == (LINE * 2000, 0)


def test_batches_to_a_pipe_are_whole_lines_that_nobody_can_come_between() -> None:
    reader, writer = os.pipe()
    lines = Lines("the log", os.dup(writer))
    stop = threading.Event()

    def interrupt() -> None:
        while not stop.is_set():
            os.write(writer, b"in between\n")

    got = bytearray()
    threads = [threading.Thread(target=lambda: got.extend(read_all(reader))), threading.Thread(target=interrupt)]
    for thread in threads:
        thread.start()
    for number in range(5000):
        lines.write(b"%05d" % number * 60 + b"\n")
        if number % 500 == 0:
            time.sleep(0.001)
    asyncio.run(lines.close(WAIT_S))
    stop.set()
    threads[1].join()
    os.close(writer)
    threads[0].join()
    found = [line for line in bytes(got).split(b"\n") if line and line != b"in between"]
    assert found == [b"%05d" % number * 60 for number in range(5000)]


@pytest.mark.parametrize("what", ["directory", "missing", "pipe"])
def test_what_can_not_be_written_is_an_error_at_once(tmp_path: Path, what: str) -> None:
    path = {"directory": tmp_path, "missing": tmp_path / "no" / "log", "pipe": tmp_path / "pipe"}[what]
    if what == "pipe":
        os.mkfifo(path)  # that nobody reads
    with pytest.raises(OSError, match=r"directory|device"):
        open_target(str(path))


def test_a_named_pipe_that_somebody_reads_is_written_and_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    fd = open_target(str(path))
    assert os.get_blocking(fd)
    lines = Lines("the log", fd)
    lines.write(LINE)
    close(lines)
    assert read_all(reader) == LINE


def test_standard_output_keeps_its_mode_and_its_own_descriptor() -> None:
    before = os.get_blocking(1)
    fd = open_target("stdout")
    assert fd > 2 and os.path.sameopenfile(fd, 1) and not os.get_inheritable(fd)
    os.close(fd)
    assert os.get_blocking(1) is before


def test_log_records_are_lines() -> None:
    reader, writer = os.pipe()
    lines = Lines("the log", writer)
    handler = LineHandler(lines)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger = logging.getLogger("fairlead.test")
    logger.addHandler(handler)
    logger.warning("a %s with \udcff", "value")
    logger.removeHandler(handler)
    close(lines)
    assert read_all(reader) == b"WARNING a value with \\udcff\n"
