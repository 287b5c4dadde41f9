"""What ``fairlead simulate`` does with its options: read, run every policy, write."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.progress import Progress

from fairlead import mixes, simulate_report, traces
from fairlead.config_schema import POLICIES
from fairlead.errors import ConfigError
from fairlead.simulate import Settings, simulate
from fairlead.workload import Trace

WEIGHT_MAX = 2**20


def _pairs(option: str, text: str) -> Iterator[tuple[str, str, str]]:
    """(part, name, number) of a list NAME=NUMBER,... in which no name is there twice."""
    seen = set()
    for part in filter(None, (each.strip() for each in text.split(","))):
        name, _, number = part.rpartition("=")
        if name in seen:
            raise ConfigError(f"{option}: {name!r} is there twice: name it once")
        seen.add(name)
        yield part, name, number


def weights(text: str, users: list[str]) -> dict[str, int]:
    """``alice=3,bob=1``."""
    found: dict[str, int] = {}
    known = set(users)
    for part, name, number in _pairs("--weights", text):
        if name not in known:
            raise ConfigError(f"--weights: {part!r}: no such user: choose NAME=WEIGHT of {', '.join(users)[:80]}")
        if not number.isdecimal() or len(number) > 7 or not 1 <= int(number) <= WEIGHT_MAX:
            raise ConfigError(f"--weights: {part!r} is not allowed: choose a whole number 1..{WEIGHT_MAX}")
        found[name] = int(number)
    return found


# What --node may say: the option's name, the setting, its range.
NODE: dict[str, tuple[str, float, float]] = {
    "slots": ("slots", 1, 2**16),
    "ttft-ms": ("ttft_ms", 0, 1e6),
    "token-ms": ("token_ms", 0, 1e6),
    "batch-slope": ("batch_slope", 0, 1e3),
    "fixed-service-s": ("fixed_service_s", 0, 1e6),
    "mtbf-s": ("mtbf_s", 0, 1e9),
    "mttr-s": ("mttr_s", 0.001, 1e9),
}


def node_model(text: str) -> dict[str, float]:
    """``slots=8,ttft-ms=200``, as settings."""
    found: dict[str, float] = {}
    for part, name, number in _pairs("--node", text):
        if name not in NODE:
            raise ConfigError(f"--node: {part!r}: there is no {name!r}: choose NAME=NUMBER of {', '.join(NODE)}")
        setting, low, high = NODE[name]
        whole = setting == "slots"
        match = re.fullmatch(r"[0-9]{1,10}" if whole else r"[0-9]{1,10}(\.[0-9]{1,9})?", number)
        value = (int(number) if whole else float(number)) if match else -1
        if not low <= value <= high:
            kind = "a whole number" if whole else "a number"
            raise ConfigError(f"--node: {part!r} is not allowed: choose {kind} {low:.10g}..{high:.10g}")
        found[setting] = value
    return found


def prices(text: str) -> dict[str, int]:
    """``IN:OUT``, as settings."""
    match = re.fullmatch(r"([0-4]):([0-4])", text)
    if match is None:
        raise ConfigError(f"--prices: {text!r} is not allowed: choose IN:OUT, each 0..4, such as 1:2")
    return {"price_input": int(match[1]), "price_output": int(match[2])}


def policies(text: str) -> list[str]:
    """Names in the order given, each once."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in POLICIES:
            raise ConfigError(f"--compare: {name!r} is not allowed: choose of {', '.join(POLICIES)}")
    return names


def check_outputs(json_path: str | None, plot: Path | None) -> None:
    """Before the work is done: can its result be written?"""
    if plot is not None and plot.suffix not in (".png", ".svg"):
        raise ConfigError(f"--plot: {str(plot)!r} is not allowed: choose a name that ends in .png or .svg")
    for option, path in (("--json", None if json_path in (None, "-") else Path(str(json_path))), ("--plot", plot)):
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            raise ConfigError(f"{option}: {str(path)!r} can't be written: choose a file in a directory that exists")
    if plot is not None and importlib.util.find_spec("matplotlib") is None:
        raise ConfigError('--plot needs matplotlib: pip install "fairlead[plot]"')


def workload_of(options: dict[str, Any]) -> Trace:
    """The requests. Options that mean nothing for them are named in its notes."""
    seed, duration_s, scale = options["seed"], options["duration_s"], options["scale"]
    given: set[str] = options["given"]
    if options["trace"] is None:
        trace = mixes.synthetic(mixes.parse_mix(options["synthetic"]), duration_s, seed=seed, scale=scale)
    else:
        zipf_users = options["zipf_users"]
        trace = traces.read(options["trace"], seed=seed, zipf_users=zipf_users, duration_s=duration_s, scale=scale)
        if "duration_s" in given and not trace.times_drawn:
            trace.notes.append("--duration changes nothing: the trace has its own times")
    if "zipf_users" in given and not trace.users_drawn:
        trace.notes.append("--zipf-users changes nothing: the requests have users")
    return trace


def simulate_and_report(options: dict[str, Any], echo: Callable[[str], Any]) -> int:
    """The exit code. ``given`` of the options: the names of those on the command line.

    Raises ConfigError for what can't be used, OSError for what can't be written."""
    names = policies(options["policies"])
    json_path: str | None = options["json_path"]
    plot: Path | None = options["plot_path"]
    check_outputs(json_path, plot)
    taken: dict[str, Any] = {name: options[name] for name in ("nodes", "queue_limit", "timeout_s", "seed")}
    taken |= node_model(options["node_model"]) | prices(options["prices"])
    trace = workload_of(options)
    settings = Settings(weights=weights(options["weights"], trace.users), **taken)
    if settings.weights and not {"wfq", "token_wfq"} & set(names):
        trace.notes.append(f"--weights changes nothing under {', '.join(names)}: choose wfq or token_wfq")
    results = []
    for name in names:
        with progress_of(name, len(trace)) as shown:
            results.append(simulate(trace, settings, name, shown))
    found = simulate_report.document(trace, results)
    if json_path != "-":
        echo(simulate_report.table(found))
    if json_path is not None:
        text = orjson.dumps(found, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS).decode()
        if json_path == "-":
            echo(text)
        else:
            Path(json_path).write_text(text + "\n", encoding="utf-8")
    if plot is not None:
        simulate_report.plot(plot, trace, results)
    return 0


@contextmanager
def progress_of(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, if somebody looks, which is told how many requests have ended."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"{name:<12}", total=total)
        yield lambda done: bar.update(task, completed=done)
