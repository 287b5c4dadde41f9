"""``fairlead serve`` and whoever reads its request log, or does not: real processes and real pipes."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_cli import FAIRLEAD, START_S, Process, free_port

# 4 bytes each: with them a line is as long as it can be, and the buffer is full after some two thousand.
MODEL = "\N{DROMEDARY CAMEL}" * 256
USER = "\N{BACTRIAN CAMEL}" * 128
LONG_ID = "i" * 128
PIPE_BYTES = 65536


class Served:
    """A router with one quick simulated node, and one client's connection to it."""

    def __init__(self, process: Process, port: int, admin: int) -> None:
        self.process = process
        self.port, self.admin = port, admin
        until = time.monotonic() + START_S
        while self.get(port, "/health/ready") != 200:
            assert process.popen.poll() is None and time.monotonic() < until, (process.out, process.err)
            time.sleep(0.05)
        self.client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)

    @staticmethod
    def get(port: int, path: str) -> int | bytes:
        """The body, or the status of what has none worth reading; 0: nobody is there."""
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            client.request("GET", path)
            response = client.getresponse()
            body = response.read()
            return body if path == "/metrics" else response.status
        except ConnectionRefusedError:
            return 0
        finally:
            client.close()

    def ask(self, count: int = 1) -> None:
        body = json.dumps({"model": MODEL, "prompt": "x", "max_tokens": 1})
        headers = {"X-User-Id": USER.encode(), "X-Request-Id": LONG_ID}
        for _ in range(count):
            self.client.request("POST", "/v1/completions", body, headers)  # type: ignore[arg-type]
            response = self.client.getresponse()
            assert (response.status, bool(response.read())) == (200, True)

    def lost(self) -> int:
        told = self.get(self.admin, "/metrics")
        assert isinstance(told, bytes)
        found = re.search(rb"^fairlead_log_lines_lost_total (\S+)$", told, re.MULTILINE)
        assert found is not None
        return int(float(found[1]))

    def until_lost(self, count: int) -> None:
        until = time.monotonic() + START_S
        while self.lost() < count:
            assert time.monotonic() < until
            time.sleep(0.02)

    def stop(self, within_s: float = 3.0) -> int:
        self.client.close()
        self.process.signal(signal.SIGTERM)
        return self.process.ended(within_s)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Starts a router whose stdout and stderr are what is given, else files."""
    started: list[Process] = []

    def start(*command: str, **options: Any) -> Process:
        directory = tmp_path / f"process-{len(started)}"
        directory.mkdir()
        started.append(Process(directory, [*command], **options))
        return started[-1]

    def begin(prefix: tuple[str, ...] = (), **options: Any) -> Served:
        times = ("--ttft", "0s", "--token-time", "0s", "--batch-time", "0s")
        mock = start(*FAIRLEAD, "mock-node", "--port", "0", "--models", MODEL, *times)
        node = mock.said(r"http://127\.0\.0\.1:(\d+)")[1]
        port, admin = free_port(), free_port()
        where = ("--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin}")
        router = start(*prefix, *FAIRLEAD, "serve", "--node", f"http://127.0.0.1:{node}", *where, **options)
        return Served(router, port, admin)

    yield begin
    for process in started:
        process.popen.kill()
        process.popen.wait()


@pytest.mark.parametrize("both", [False, True], ids=["stdout", "stdout and stderr"])
def test_a_pipe_that_nobody_reads_costs_lines_not_requests(served: Callable[..., Served], both: bool) -> None:
    reader, writer = os.pipe()
    router = served(stdout=writer, **({"stderr": writer} if both else {}))
    os.close(writer)
    lines = 0
    while not router.lost():
        router.ask(200)
        lines += 200
        assert lines <= 4000
    lost = router.lost()
    router.ask(20)
    assert router.lost() == lost + 20  # they went on, and each one is counted
    begun = time.monotonic()
    assert router.stop() == 0
    assert time.monotonic() - begun < 3.0
    if not both:
        assert "nobody reads" in router.process.err
    written = b""
    while piece := os.read(reader, PIPE_BYTES):
        written += piece
    os.close(reader)
    whole = [line for line in written.split(b"\n")[:-1] if line.startswith(b"{")]
    assert {json.loads(line)["user"] for line in whole} == {USER}
    assert len(whole) >= PIPE_BYTES // 2 // 2300  # what a pipe holds


def test_a_reader_that_leaves_is_told_of_once(served: Callable[..., Served]) -> None:
    reader, writer = os.pipe()
    router = served(stdout=writer)
    os.close(writer)
    router.ask(3)
    line = b""
    while line.count(b"\n") < 3:
        line += os.read(reader, PIPE_BYTES)
    os.close(reader)
    router.ask(10)
    router.until_lost(10)
    router.ask(10)
    assert router.lost() == 20
    assert router.stop() == 0
    assert router.process.err.count("whoever read it is gone: nothing is written any more") == 1
    assert "Traceback" not in router.process.err and "Broken" not in router.process.err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_costs_lines_not_requests(served: Callable[..., Served]) -> None:
    with Path("/dev/full").open("wb") as full:
        router = served(stdout=full)
    router.ask(10)
    router.until_lost(10)
    assert router.stop() == 0
    assert router.process.err.count("No space left on device") == 1
    assert "Traceback" not in router.process.err


def test_what_is_written_to_standard_output_can_be_simulated(served: Callable[..., Served], tmp_path: Path) -> None:
    router = served()
    router.ask(25)
    assert router.stop() == 0
    log = router.process.out.splitlines()
    assert len(log) == 25 and all(json.loads(line)["outcome"] == "completed" for line in log)
    assert "listens on http://127.0.0.1:" in router.process.err and "{" not in router.process.err.partition("-d")[0]
    (tmp_path / "requests.jsonl").write_text(router.process.out)
    simulate = [*FAIRLEAD, "simulate", "--trace", str(tmp_path / "requests.jsonl"), "--compare", "fifo,wfq"]
    told = subprocess.run(simulate, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "(request log): 25 requests of 1 user\n" in told


@pytest.mark.parametrize("target", ["none", "stderr", "/nowhere/log", "closed"])
def test_where_it_goes(served: Callable[..., Served], tmp_path: Path, target: str) -> None:
    path = tmp_path / "f.yaml"
    if target == "closed":
        with pytest.raises(AssertionError, match=r"fairlead: log.requests: stdout: is closed: name a file"):
            served(("sh", "-c", 'exec "$@" >&-', "sh"))
        return
    path.write_text(f"log: {{requests: {target}}}\n")
    command = ("sh", "-c", 'exec "$@" "$0"', str(path))
    if target == "/nowhere/log":
        with pytest.raises(AssertionError, match=r"fairlead: log.requests: /nowhere/log: No such file or directory"):
            served(command)
        return
    router = served(command)
    router.ask(5)
    assert router.stop() == 0
    assert router.process.out == ""
    assert router.process.err.count('"outcome":"completed"') == (5 if target == "stderr" else 0)


def test_the_demo_is_not_disturbed_by_it(tmp_path: Path) -> None:
    demo = Process(tmp_path, [*FAIRLEAD, "serve", "--demo", "--for", "1s"])
    assert demo.ended() == 0
    assert "served" in demo.out and "request_id" not in demo.out + demo.err
