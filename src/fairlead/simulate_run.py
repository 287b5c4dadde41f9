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

from fairlead import simulate_report, traces
from fairlead.config_schema import POLICIES
from fairlead.errors import ConfigError
from fairlead.simulate import Settings, simulate

WEIGHT_MAX = 2**20


def weights(text: str, users: list[str]) -> dict[str, int]:
    """``alice=3,bob=1``."""
    found: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        name, _, number = part.strip().rpartition("=")
        if name not in users:
            raise ConfigError(f"--weights: {part!r}: no such user: choose NAME=WEIGHT of {', '.join(users)[:80]}")
        if not number.isdecimal() or not 1 <= int(number) <= WEIGHT_MAX:
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
    for part in filter(None, text.split(",")):
        name, _, number = part.strip().partition("=")
        if name not in NODE:
            raise ConfigError(f"--node: {part!r}: there is no {name!r}: choose of {', '.join(NODE)}")
        setting, low, high = NODE[name]
        whole = setting == "slots"
        if not re.fullmatch(r"[0-9]{1,10}" if whole else r"[0-9]{1,10}(\.[0-9]{1,9})?", number):
            raise ConfigError(f"--node: {part!r} is not allowed: choose a number {low:g}..{high:g}")
        value = int(number) if whole else float(number)
        if not low <= value <= high:
            raise ConfigError(f"--node: {part!r} is not allowed: choose a number {low:g}..{high:g}")
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


def simulate_and_report(options: dict[str, Any], echo: Callable[[str], Any]) -> int:
    """The exit code. Raises ConfigError for what can't be used, OSError for what can't be written."""
    names = policies(options["policies"])
    plot: Path | None = options["plot_path"]
    if plot is not None and plot.suffix not in (".png", ".svg"):
        raise ConfigError(f"--plot: {str(plot)!r} is not allowed: choose a name that ends in .png or .svg")
    if plot is not None and importlib.util.find_spec("matplotlib") is None:
        raise ConfigError('--plot needs matplotlib: pip install "fairlead[plot]"')
    taken: dict[str, Any] = {name: options[name] for name in ("nodes", "queue_limit", "timeout_s", "seed")}
    taken |= node_model(options["node_model"]) | prices(options["prices"])
    seed: int = options["seed"]
    if options["trace"] is not None:
        trace = traces.read(
            options["trace"],
            seed=seed,
            zipf_users=options["zipf_users"],
            duration_s=options["duration_s"],
            scale=options["scale"],
        )
    else:
        trace = traces.synthetic(traces.parse_mix(options["synthetic"]), options["duration_s"], seed=seed)
    settings = Settings(weights=weights(options["weights"], trace.users), **taken)
    results = []
    for name in names:
        with progress_of(name, len(trace)) as shown:
            results.append(simulate(trace, settings, name, shown))
    found = simulate_report.document(trace, results)
    if options["json_path"] != "-":
        echo(simulate_report.table(found))
    if options["json_path"] is not None:
        text = orjson.dumps(found, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS).decode()
        if options["json_path"] == "-":
            echo(text)
        else:
            Path(options["json_path"]).write_text(text + "\n", encoding="utf-8")
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
