"""What ``fairlead simulate`` does with its options: read, run every policy, write."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from fairlead import simulate_report, traces
from fairlead.errors import ConfigError
from fairlead.simulate import POLICIES, Settings, simulate

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
    taken = {name: options[name] for name in Settings.__dataclass_fields__ if name != "weights"}
    settings = Settings(weights=weights(options["weights"], trace.users), **taken)
    results = []
    for name in names:
        with Bar(name, len(trace)) as bar:
            results.append(simulate(trace, settings, name, bar.shown))
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


class Bar:
    """Progress on standard error, if somebody looks."""

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total = name, total
        self.on = sys.stderr.isatty()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self.on:
            sys.stderr.write("\r\x1b[K")

    def shown(self, done: int) -> None:
        """So many requests have ended."""
        if self.on:
            sys.stderr.write(f"\r{self.name:<12} {done / self.total:4.0%} {'#' * (40 * done // self.total)}")
            sys.stderr.flush()
