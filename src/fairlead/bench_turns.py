"""Routers side by side: the same work directly and through each, in turns, on cores of their own.

Promise: a turn of each router in every round, so that what the machine does meanwhile meets all of them; figures are
medians of the rounds with their least and greatest. What made a figure doubtful stands beside it: faults, other
processes on the router's core, time that the hypervisor took, and a load that was at its own limit.

The router has one core. Node and generator share another: they cost about 12 µs per request together.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final

from fairlead import bench_machine as machine
from fairlead.bench import PATH, BenchError, Load, Target, Window, Work, told
from fairlead.bench_node import MODEL

NODES: Final = 4
SLOTS: Final = 24  # per node: 64 connections do not wait, 64 of 160 do
START_S: Final = 90.0
SETTLE_S: Final = 60.0
WARM_S: Final = 0.3
LEAST: Final = 20  # good requests in a turn, for which it may take longer
STREAM_CHUNKS: Final = 64
PACE_US: Final = 20_000
LOW_RATE: Final = 200.0
HIGH_PART: Final = 0.7

PLAIN: Final = {
    "one_user": Work(),
    "many_users": Work(users=1000),
    "queue": Work(connections=NODES * SLOTS + 64, users=100),
}
STREAMS: Final = {
    "in_step": Work(stream=True, tokens=STREAM_CHUNKS, pace_us=PACE_US, in_step=True, users=64),
    "scattered": Work(stream=True, tokens=STREAM_CHUNKS, pace_us=PACE_US, users=64),
}
LOW: Final = Work(connections=16, rate=LOW_RATE, users=16)
# For longer than anybody looks, and seldom enough that all of them can be begun.
HELD: Final = Work(stream=True, tokens=100_000, pace_us=5_000_000, users=1000)
HELD_LEAST: Final = 0.9  # of the streams, for a figure per stream

Turn = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a router is to be: its port, the ports of its nodes, slots per node, and a directory of its own."""

    directory: Path
    port: int
    nodes: tuple[int, ...]
    slots: int
    connections_max: int
    model: str = MODEL


@dataclass(frozen=True, slots=True)
class Router:
    """How to start one. command writes the files that it names; headers: lines its requests must have."""

    name: str
    version: str
    command: Callable[[Place], list[str]]
    environment: Mapping[str, str] = field(default_factory=dict)
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Settings:
    """seconds: of a turn. streams: how many are held for the memory per stream. cores: router's, then the load's."""

    rounds: int = 3
    seconds: float = 2.0
    streams: tuple[int, ...] = (1_000, 10_000)
    router_core: int = 0
    load_core: int = 1
    directory: Path = Path("side_by_side")


@dataclass(frozen=True, slots=True)
class Running:
    """A router that serves (or, without a pid, the node itself) and what it cost before it served."""

    name: str
    target: Target
    pid: int | None


class Bench:
    """The node, the routers, and turns at them. A context manager: it ends what it started."""

    def __init__(self, settings: Settings, echo: Callable[[str], Any]) -> None:
        self.settings = settings
        self.echo = echo
        self._stack = ExitStack()
        self.files = machine.raise_file_limit()
        self.nodes: tuple[int, ...] = ()
        self.node_pid = 0

    def __enter__(self) -> Bench:
        settings = self.settings
        # Whoever ends us ends what we started, too.
        before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        self._stack.callback(signal.signal, signal.SIGTERM, before)
        self._stack.callback(os.sched_setaffinity, 0, os.sched_getaffinity(0))
        settings.directory.mkdir(parents=True, exist_ok=True)
        machine.pin(settings.load_core)
        log = settings.directory / "node.log"
        command = [*machine.python_module("fairlead.bench_node"), str(NODES), str(self.files - 1000)]
        try:
            node = self._stack.enter_context(machine.started(command, settings.load_core, log))
            until = time.monotonic() + START_S
            while not log.read_text().endswith("\n"):
                if node.poll() is not None or time.monotonic() > until:
                    raise BenchError(f"the node does not start: {machine.last_words(log)}")
                time.sleep(0.02)
            self.nodes = tuple(map(int, log.read_text().split()))
        except BaseException:
            self._stack.close()
            raise
        self.node_pid = node.pid
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def direct(self) -> Running:
        return Running("direct", Target("127.0.0.1", self.nodes[0]), None)

    @contextmanager
    def router(self, router: Router, slots: int) -> Iterator[Running]:
        """Start it and wait until it relays. Raises BenchError."""
        directory = self.settings.directory / router.name
        directory.mkdir(parents=True, exist_ok=True)
        connections = machine.relayed_max(self.files)
        place = Place(directory.resolve(), machine.free_port(), self.nodes, slots, connections)
        log = directory / "log"
        command = router.command(place)
        with machine.started(command, self.settings.router_core, log, router.environment) as process:
            target = Target("127.0.0.1", place.port, headers=router.headers)
            until = time.monotonic() + START_S
            while not answers(target):
                if process.poll() is not None or time.monotonic() > until:
                    raise BenchError(f"{router.name} does not start: {machine.last_words(log)}")
                time.sleep(0.1)
            yield Running(router.name, target, process.pid)

    def turn(self, running: Running, work: Work, seed: int) -> Turn:
        """One measurement."""
        settings = self.settings
        pids = machine.tree(running.pid) if running.pid is not None else []
        with Load(running.target, work, MODEL, echo=True, seed=seed) as load:
            load.run(min(WARM_S, settings.seconds))
            before = (machine.cpu_ns(pids), machine.cpu_ns([self.node_pid]), self._cores())
            window = load.run(settings.seconds, LEAST)
            router_ns, node_ns = machine.cpu_ns(pids) - before[0], machine.cpu_ns([self.node_pid]) - before[1]
            cores = [now.since(then) for now, then in zip(self._cores(), before[2], strict=True)]
            load.finish(5.0 if not work.stream else 0.0)
        return measured(window, router_ns, node_ns, cores)

    def _cores(self) -> list[machine.CoreTime]:
        return [machine.CoreTime.now(core) for core in (self.settings.router_core, self.settings.load_core)]

    def memory(self, router: Router, streams: int) -> dict[str, Any]:
        """Idle, and while so many streams are held; in a process of its own."""
        held = min(streams, machine.relayed_max(self.files))
        with self.router(router, -(-held // NODES) + SLOTS) as running:
            assert running.pid is not None
            time.sleep(self.settings.seconds / 2)
            idle = machine.memory_bytes(machine.tree(running.pid))
            with Load(running.target, replace(HELD, connections=held), MODEL, echo=True) as load:
                load.settle(SETTLE_S, held)
                window = load.run(self.settings.seconds)
                full = machine.memory_bytes(machine.tree(running.pid))
            flowing = int(window.counts["flowing"])
            return {
                "streams": held,
                "flowing": flowing,
                "idle_bytes": idle,
                "bytes_per_stream": (full - idle) / flowing if flowing >= HELD_LEAST * held else None,
                "faults": told(window.counts),
            }


def answers(target: Target) -> bool:
    """Whether a request comes back with 200."""
    connection = HTTPConnection(target.host, target.port, timeout=5.0)
    head, _, body = Work().request(target, MODEL).partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    try:
        connection.request("POST", PATH, body, headers)
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def measured(window: Window, router_ns: int, node_ns: int, cores: list[machine.CoreTime]) -> Turn:
    """A turn as it stands in the JSON. Parts are of one core, 0..1."""
    wall_ns = window.seconds * 1e9
    counts, load_ns = window.counts, node_ns + window.own_cpu_ns
    turn = {
        "good": window.good,
        "requests_per_s": window.good / window.seconds,
        "cpu_us_per_request": router_ns / 1e3 / window.good if window.good else None,
        "cpu_us_per_chunk": router_ns / 1e3 / counts["chunks"] if counts["chunks"] else None,
        "router_part": router_ns / wall_ns,
        "load_part": load_ns / wall_ns,
        "others_on_router_core": max(0.0, (cores[0].busy_ns - router_ns) / wall_ns),
        "others_on_load_core": max(0.0, (cores[1].busy_ns - load_ns) / wall_ns),
        "stolen": cores[0].stolen_ns / wall_ns,
        "faults": told(counts),
        "missed": counts["missed"] + counts["unsent"],
    }
    for kind in ("latency", "first", "transit", "lag"):
        if counts[kind]:
            turn[f"{kind}_ms"] = window.latencies(kind).summary()
    return turn


# All of it ---------------------------------------------------------------------------------------


def compare(routers: list[Router], settings: Settings, echo: Callable[[str], Any]) -> dict[str, Any]:
    """The document that is written as JSON. echo is told what is going on. Raises BenchError."""
    found: dict[str, dict[str, Any]] = {
        router.name: {"version": router.version, "turns": {}, "memory": [], "unheld": [], "failed": None}
        for router in routers
    }
    with Bench(settings, echo) as bench, ExitStack() as stack:
        running = []
        for router in routers:
            echo(f"starting {router.name} {router.version}")
            try:
                running.append(stack.enter_context(bench.router(router, SLOTS)))
            except BenchError as error:
                found[router.name]["failed"] = str(error)
                echo(str(error))
        direct: dict[str, list[Turn]] = {}
        for number in range(settings.rounds):
            echo(f"round {number + 1} of {settings.rounds}")
            one_round(bench, running, found, direct, number)
        stack.close()
        for router in routers:
            for streams in settings.streams if found[router.name]["failed"] is None else ():
                echo(f"{router.name}: {streams:,} streams")
                try:
                    found[router.name]["memory"].append(bench.memory(router, streams))
                except BenchError as error:
                    found[router.name]["unheld"].append(f"{streams:,} streams: {error}")
                    echo(str(error))
    return {
        "machine": machine.describe(),
        "settings": {"rounds": settings.rounds, "seconds": settings.seconds, "nodes": NODES, "slots": NODES * SLOTS},
        "direct": direct,
        "routers": found,
    }


def one_round(
    bench: Bench,
    running: list[Running],
    found: dict[str, dict[str, Any]],
    direct: dict[str, list[Turn]],
    number: int,
) -> None:
    """Every kind of work, and for each of them every router."""

    def turns(kind: str, work: Work) -> None:
        direct.setdefault(kind, []).append(bench.turn(bench.direct, work, number + 1))
        for each in running:
            found[each.name]["turns"].setdefault(kind, []).append(bench.turn(each, work, number + 1))

    for kind, work in (PLAIN | STREAMS | {"low": LOW}).items():
        turns(kind, work)
    for each in running:
        # The same rate directly, as the load's own share of the latency grows with it.
        rate = HIGH_PART * found[each.name]["turns"]["one_user"][-1]["requests_per_s"]
        if rate < 1:
            continue
        work = Work(rate=rate, users=64)
        turn = bench.turn(each, work, number + 1)
        turn["rate"] = rate
        turn["direct_latency_ms"] = bench.turn(bench.direct, work, number + 1)["latency_ms"]
        found[each.name]["turns"].setdefault("high", []).append(turn)
