"""The machine under a benchmark: processes on cores of their own, what they cost, and what else ran there.

Promise: CPU time is user + system of all threads of a process and its descendants, ended threads included, in
nanoseconds as the kernel counts them; memory is the proportional set size, so pages that processes share count once.
Linux only.
"""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fairlead.bench import BenchError

END_S: Final = 5.0
SPARE_FILES: Final = 200  # of a process, besides its connections


def tree(pid: int) -> list[int]:
    """The process and its descendants; empty if it has ended."""
    found = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{thread}/children").read_text().split():
                found += tree(int(child))
    except (FileNotFoundError, ProcessLookupError):
        return found if Path(f"/proc/{pid}").exists() else []
    return [pid, *found]


def cpu_ns(pids: Iterable[int]) -> int:
    """User + system. Raises ProcessLookupError if one has ended."""
    total = 0
    for pid in pids:
        try:
            # The CPU clock of another process: clock_getcpuclockid(3), which Python lacks.
            total += time.clock_gettime_ns((~pid << 3) | 2)
        except OSError as error:
            raise ProcessLookupError(error.errno, f"process {pid} has ended") from None
    return total


def memory_bytes(pids: Iterable[int]) -> int:
    """Proportional set size. PermissionError where they are somebody else's."""
    total = 0
    for pid in pids:
        match = re.search(r"^Pss: +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        total += int(match[1]) * 1024 if match else 0
    return total


@dataclass(frozen=True, slots=True)
class CoreTime:
    """One core's time since boot, in ns; of 10 ms each."""

    busy_ns: int
    stolen_ns: int  # the hypervisor gave it to another machine

    @staticmethod
    def now(core: int) -> CoreTime:
        tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
        with open("/proc/stat", encoding="ascii") as lines:
            fields = next(line.split()[1:] for line in lines if line.startswith(f"cpu{core} "))
        user, nice, system, _, _, irq, softirq, steal = (int(field) for field in fields[:8])
        return CoreTime((user + nice + system + irq + softirq) * tick_ns, steal * tick_ns)

    def since(self, then: CoreTime) -> CoreTime:
        return CoreTime(self.busy_ns - then.busy_ns, self.stolen_ns - then.stolen_ns)


def cores() -> list[int]:
    """Those that this process may use."""
    return sorted(os.sched_getaffinity(0))


def pin(core: int, pid: int = 0) -> None:
    """Raises BenchError."""
    try:
        os.sched_setaffinity(pid, {core})
    except OSError as error:
        raise BenchError(f"core {core} can't be had ({error.strerror}): choose of {cores()}") from None


def raise_file_limit() -> int:
    """As far as this process may; gives how many files it may have open, and so may those that it starts."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def relayed_max(files: int) -> int:
    """Connections that a router with so many files can relay at once: each takes two."""
    return (files - SPARE_FILES) // 2


def describe() -> dict[str, Any]:
    """What a reader of the figures wants to know."""
    text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    names = re.findall(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
        "date": time.strftime("%Y-%m-%d"),
    }


def free_port() -> int:
    """One that nobody listened on a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def started(
    command: list[str], core: int, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process on its core, which ends with the block, and all its descendants with it. Raises BenchError."""
    before = os.sched_getaffinity(0)
    pin(core)  # inherited
    try:
        with log.open("wb") as out:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
    except OSError as error:
        raise BenchError(f"{command[0]} can't be started: {error.strerror}") from None
    finally:
        os.sched_setaffinity(0, before)
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask its session to go, then kill what is left of it. Nothing if it has ended."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):  # the whole session has ended
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):  # next it is killed
            process.wait(END_S)


def last_words(log: Path) -> str:
    """The end of what a process has said, on one line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " / ".join(lines[-3:])[-400:] or "it said nothing"


def python_module(name: str) -> list[str]:
    """The command that runs a module of ours with this interpreter."""
    return [sys.executable, "-m", name]


def program(name: str, folder: Path | None) -> str | None:
    """Where a program is: in a virtual environment's folder, on PATH, or where daemons live."""
    folders = [str(folder / "bin")] if folder else []
    return shutil.which(name, path=os.pathsep.join([*folders, os.environ.get("PATH", ""), "/usr/sbin"]))
