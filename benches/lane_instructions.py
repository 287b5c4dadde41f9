"""Instructions of ``fairlead serve`` per request and per streamed chunk, counted by callgrind in the running server.

One server, one simulated node that answers at once, and our generator; only the server is under valgrind, and only
while a case's load is on. Without the kernel's part, which is most of what a reverse proxy costs.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from fairlead import bench_machine as machine
from fairlead.bench import BenchError, Load, Target, Work, told
from fairlead.bench_node import MODEL

SLOTS = 4
START_S, FINISH_S = 90.0, 30.0
WARM_S, LOAD_S = 1.0, 3.0
# name -> (what is asked, of how many answers at least, what is counted). "queue": 64 always wait, of 100 users.
CASES = {
    "request_plain": (Work(connections=1), 200, "good"),
    "request_1000_users": (Work(connections=1, users=1000), 200, "good"),
    "request_queue": (Work(connections=SLOTS + 64, users=100), 200, "good"),
    "chunk_of_a_stream": (Work(connections=1, stream=True, tokens=256, pace_us=3_000), 4, "chunks"),
}


def counts(directory: Path) -> Iterator[tuple[str, float]]:
    """Each case and its instructions. directory: for the server's files. Raises BenchError."""
    with ExitStack() as stack:
        core = machine.cores()[0]
        node_log = directory / "node.log"
        stack.enter_context(
            machine.started([*machine.python_module("fairlead.bench_node"), "1", "1000"], core, node_log)
        )
        until = time.monotonic() + START_S
        while not node_log.read_text().endswith("\n") and time.monotonic() < until:
            time.sleep(0.05)
        port, out = machine.free_port(), directory / "callgrind.out"
        configuration = directory / "fairlead.yaml"
        configuration.write_text(
            f"listen: 127.0.0.1:{port}\nadmin: none\nhealth: {{period: 1h}}\nlog: {{level: warning, requests: none}}\n"
            f"nodes: [{{url: 'http://127.0.0.1:{int(node_log.read_text())}', slots: {SLOTS}}}]\n"
        )
        python = os.path.realpath(sys.executable)  # not a wrapper script, which valgrind would watch instead
        command = ["setarch", "-R", "valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}"]
        environment = {"PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        log = directory / "serve.log"
        command += [python, "-m", "fairlead", "serve", str(configuration)]
        server = stack.enter_context(machine.started(command, core, log, environment))
        target = Target.of(f"http://127.0.0.1:{port}", ())
        wait_for(target, server, log)
        for turn, (name, (work, least, unit)) in enumerate(CASES.items(), 1):
            with Load(target, work, MODEL, echo=True) as load:
                load.run(WARM_S, least)
                load.finish(FINISH_S)
            control(server.pid, "--instr=on")
            with Load(target, work, MODEL, echo=True) as load:
                load.run(LOAD_S, least)
                late = load.finish(FINISH_S)
                done = load.counts()
            control(server.pid, "--instr=off")
            control(server.pid, f"--dump={name}")
            if done["faults"] or late:
                raise BenchError(f"{name}: {told(done)}, {late} answers did not come")
            found = re.search(r"^totals: (\d+)", Path(f"{out}.{turn}").read_text(), re.MULTILINE)
            assert found is not None, f"{out}.{turn} has no total"
            yield name, int(found[1]) / done[unit]


def wait_for(target: Target, server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and server.poll() is None:
        try:
            socket.create_connection((target.host, target.port), 1).close()
            if target.models():
                return
        except (OSError, BenchError):
            time.sleep(0.1)
    raise BenchError(f"the router under valgrind does not serve: {machine.last_words(log)}")


def control(pid: int, what: str) -> None:
    run = subprocess.run(["callgrind_control", what, str(pid)], check=False, capture_output=True, text=True)
    if run.returncode != 0 or "OK" not in run.stdout:
        raise BenchError(f"callgrind_control {what}: {(run.stderr or run.stdout).strip()}")
