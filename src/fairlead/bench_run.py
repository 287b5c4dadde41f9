"""What ``fairlead bench`` does with its options: load an endpoint, or measure this router on this machine."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import click
import orjson

from fairlead import bench_machine as machine
from fairlead import bench_report, bench_turns
from fairlead._version import __version__
from fairlead.bench import BenchError, Load, Target, Window, Work, told

WARM_S: Final = 1.0
DRAIN_S: Final = 5.0
Echo = Callable[[str], Any]


def fairlead_router() -> bench_turns.Router:
    """This router, with a plain configuration."""

    def command(place: bench_turns.Place) -> list[str]:
        nodes = "".join(f"  - {{url: 'http://127.0.0.1:{port}', slots: {place.slots}}}\n" for port in place.nodes)
        path = place.directory / "fairlead.yaml"
        path.write_text(
            f"listen: 127.0.0.1:{place.port}\nadmin: none\nnodes:\n{nodes}"
            f"queue: {{max_waiting: {place.connections_max}, max_waiting_per_user: {place.connections_max}}}\n"
            "timeouts: {drain: 0s}\nlog: {level: warning, requests: none}\n"
        )
        return [*machine.python_module("fairlead"), "serve", str(path)]

    return bench_turns.Router("fairlead", __version__, command)


def here(seconds: float, json_path: str | None, echo: Echo) -> int:
    """Directly and through this router, each on a core of its own. The exit code. Raises BenchError."""
    cores = machine.cores()
    if len(cores) < 2:
        raise BenchError("one core is not enough: router and load need one each (see taskset)")
    with tempfile.TemporaryDirectory(prefix="fairlead-bench-") as directory:
        settings = bench_turns.Settings(
            seconds=seconds,
            streams=(1_000,),
            router_core=cores[0],
            load_core=cores[1],
            directory=Path(directory),
        )
        document = bench_turns.compare([fairlead_router()], settings, lambda line: echo(f"... {line}"))
    echo("\n" + bench_report.markdown(document))
    write(json_path, document)
    return exit_code(document)


def exit_code(document: dict[str, Any]) -> int:
    """1 if a router did not start, or a request through it went wrong."""
    routers = document["routers"].values()
    works = [document["direct"], *(router["turns"] for router in routers)]
    wrong = any(turn["faults"] for turns in works for kind in turns.values() for turn in kind)
    return 1 if wrong or any(router["failed"] for router in routers) else 0


def load(
    target: Target,
    work: Work,
    model: str | None,
    seconds: float,
    pids: Sequence[int],
    json_path: str | None,
    echo: Echo,
) -> int:
    """Load an endpoint; the exit code: 1 if anything went wrong with a request. Raises BenchError."""
    machine.raise_file_limit()
    if model is None:
        models = target.models()
        if not models:
            raise BenchError(f"{target.authority} lists no model: name one with --model")
        model = str(models[0]["id"])
    with Load(target, work, model) as running:
        running.run(min(WARM_S, seconds))
        try:
            watched = [pid for each in pids for pid in machine.tree(each) or [each]]
            before, begun = machine.cpu_ns(watched), time.perf_counter_ns()
            window = running.run(seconds)
            cpu = machine.cpu_ns(watched) - before
        except ProcessLookupError as error:
            raise BenchError(f"--pid: {error.args[1]}") from None
        wall = time.perf_counter_ns() - begun
        late = running.finish(DRAIN_S)
    document = {"url": target.authority, "model": model, "nonces_checked": running.echo, **window.summary()}
    if watched:
        document["pids_cpu_us"] = cpu // 1000
    document["unanswered"] = late
    echo(text(target, work, model, running.echo, window))
    if watched:
        share = cpu / wall
        each = f"{cpu / 1e3 / window.good:.1f} µs per request" if window.good else "no request"
        chunks = f", {cpu / 1e3 / window.counts['chunks']:.1f} µs per chunk" if window.counts["chunks"] else ""
        echo(f"CPU of --pid      {each}{chunks}, {share:.0%} of a core")
    for line in notes(work, window):
        echo(f"note: {line}")
    write(json_path, document)
    return 1 if window.faults else 0


def text(target: Target, work: Work, model: str, nonces: bool, window: Window) -> str:
    """For people."""
    pace = f"{work.rate:g} requests/s" if work.rate else "each asks again at once"
    lines = [
        f"{target.authority}, model {model}: {work.connections} connections, {pace}, "
        f"{work.users} user{'' if work.users == 1 else 's'}, {window.seconds:.1f} s",
        f"requests/s        {window.good / window.seconds:,.1f}   ({window.good:,} good)",
        f"faults            {told(window.counts) or 'none'}",
    ]
    if work.stream:
        lines.append(f"chunks/s          {window.counts['chunks'] / window.seconds:,.1f}")
    kinds = {"latency": "latency ms", "first": "first chunk ms", "gap": "between chunks", "transit": "chunk transit ms"}
    for kind, label in kinds.items():
        if window.counts[kind]:
            found = window.latencies(kind).summary()
            told_of = "   ".join(f"{name} {found[name]:,.2f}" for name in ("p50", "p90", "p99", "max"))
            lines.append(f"{label:<18}{told_of}")
    checked = "each was compared" if nonces else "not repeated by this engine: answers were not matched to requests"
    lines.append(f"nonces            {checked}")
    return "\n".join(lines)


def notes(work: Work, window: Window) -> list[str]:
    """What a reader has to know before believing the figures."""
    found = []
    own = window.own_cpu_ns / 1e9 / window.seconds
    if own > bench_report.FULL:
        found.append(f"this generator took {own:.0%} of a core: it may be the limit; give it a core with --cpu")
    if work.rate and window.counts["lag"]:
        late = window.latencies("lag").percentile(99)
        if late > bench_report.LAG_MS:
            found.append(f"the generator was late itself, p99 {late:.1f} ms: latencies are too high by that")
    never = window.counts["missed"] + window.counts["unsent"]
    if never:
        found.append(f"{never:,} requests were due and had no connection: raise --connections, or it does not keep up")
    if window.counts["stale"]:
        found.append(f"{window.counts['stale']:,} requests met a connection that was just closed, and were sent again")
    return found


def write(json_path: str | None, document: dict[str, Any]) -> None:
    if json_path is None:
        return
    out = orjson.dumps(document, option=orjson.OPT_INDENT_2).decode()
    if json_path == "-":
        click.echo(out)
    else:
        Path(json_path).write_text(out + "\n", encoding="utf-8")


def run(options: dict[str, Any], echo: Echo) -> int:
    """The exit code. Raises BenchError for what can't be done, OSError for what can't be written."""
    if options["json_path"] == "-":
        echo = partial(click.echo, err=True)  # standard output is the document's
    seconds = options["span_ns"] / 1e9 if options["span_ns"] is not None else None
    if seconds == 0:
        raise BenchError("--for is 0s: give a time such as 10s")
    if options["url"] is None:
        return here(seconds or 2.0, options["json_path"], echo)
    if options["cpu"] is not None:
        machine.pin(options["cpu"])
    work = Work(**{name: options[name] for name in ("connections", "rate", "users", "stream", "tokens", "body")})
    target = Target.of(options["url"], options["headers"])
    return load(target, work, options["model"], seconds or 10.0, options["pids"], options["json_path"], echo)
