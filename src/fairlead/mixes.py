"""Workloads that are drawn from a seed: users by rate and lengths, as one writes them or as ServeGen describes them."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from fairlead import workload
from fairlead.workload import REQUESTS_MAX, TOKENS_MAX, Trace, TraceError


@dataclass(frozen=True, slots=True)
class Source:
    """One user of a synthetic mix. ``cv`` is the spread of the gaps: 1 is Poisson; ``even`` has none."""

    user: str
    rate: float  # requests/s, while on
    input_tokens: float
    output_tokens: float
    even: bool = False
    on_s: float = math.inf
    off_s: float = 0.0
    cv: float = 1.0
    spread_lengths: bool = False  # exponential around the mean instead of fixed

    @property
    def part_on(self) -> float:
        return 1.0 if self.on_s == math.inf else self.on_s / (self.on_s + self.off_s)


FORM: Final = "USER:RATE/s:INPUT:OUTPUT with :even and :on=S:off=S where wanted, as light:0.5/s:256:256:even"


def parse_mix(text: str) -> list[Source]:
    """``light:0.5/s:256:256,heavy:3/s:256:256:even:on=60:off=60``."""
    sources = []
    for part in text.split(","):
        try:
            sources.append(_source(part.strip()))
        except (ValueError, IndexError):
            raise TraceError(f"--synthetic: {part!r} is not allowed: {FORM}") from None
    _no_user_twice("--synthetic", sources)
    return sources


def _no_user_twice(where: str, sources: list[Source]) -> None:
    name, times = Counter(source.user for source in sources).most_common(1)[0]
    if times > 1:
        raise TraceError(f"{where}: user {name!r} is there {times} times: every user once is allowed")


def _source(text: str) -> Source:
    user, rate, size, output, *options = text.split(":")
    times = dict(option.split("=") for option in options if option != "even")
    source = Source(
        workload.name(user),
        float(rate.removesuffix("/s")),
        workload.tokens(size),
        workload.tokens(output),
        even="even" in options,
        on_s=float(times.pop("on", "inf")),
        off_s=float(times.pop("off", 0)),
    )
    if times or not 0 < source.rate <= 1e6 or not source.on_s > 0 or not 0 <= source.off_s <= 1e9:
        raise ValueError
    return source


def synthetic(
    sources: list[Source], duration_s: float, *, seed: int = 1, scale: float = 1.0, name: str = "--synthetic"
) -> Trace:
    """The mix over ``duration_s``, each user's arrivals from its own stream of the seed at ``scale`` times its rate."""
    sources = [replace(source, rate=source.rate * scale) for source in sources]
    fewer = "choose a smaller rate, --scale or --duration"
    if sum(source.rate * source.part_on * duration_s for source in sources) > REQUESTS_MAX:
        raise workload.too_many(name, fewer)
    trace = Trace(name, "synthetic", users=[source.user for source in sources], models=["any"], times_drawn=True)
    for index, source in enumerate(sources):
        draw = random.Random(f"mix {seed} {index}")
        for at in _arrivals(source, duration_s, draw):
            trace.arrival_ns.append(round(at * 1e9))
            trace.user.append(index)
            trace.model.append(0)
            trace.max_tokens.append(0)
            for column, mean in (
                (trace.input_tokens, source.input_tokens),
                (trace.output_tokens, source.output_tokens),
            ):
                length = draw.expovariate(1 / mean) if source.spread_lengths and mean else mean
                column.append(min(max(1, round(length)), TOKENS_MAX) if mean else 0)
            if len(trace) > REQUESTS_MAX:
                raise workload.too_many(name, fewer)
    if not trace:
        raise TraceError(f"{name}: no request in {duration_s:g} s: choose a larger rate, --scale or --duration")
    return workload.in_order(trace, 1.0)


def _arrivals(source: Source, duration_s: float, draw: random.Random) -> Iterator[float]:
    """Seconds. The clock of a user that is off stands still, so that its rate holds while it is on."""
    gap = 1 / source.rate
    shape = 1 / source.cv**2
    on_time = draw.random() * gap if source.even else 0.0
    while True:
        if not source.even:
            on_time += draw.gammavariate(shape, gap / shape)
        at = on_time if source.on_s == math.inf else on_time + on_time // source.on_s * source.off_s
        if at >= duration_s:
            return
        yield at
        if source.even:
            on_time += gap


def servegen(
    path: Path, rows: Iterable[tuple[int, dict[str, Any]]], seed: int, duration_s: float, scale: float
) -> Trace:
    """A mix from client rates, burstiness and mean lengths. Clients without lengths get the mean of the others.

    rows: of the file, with their lines."""
    read = [_client(path, line, row) for line, row in rows]
    known = [each for each in read if each.input_tokens and each.output_tokens]
    if not known:
        raise TraceError(f"{path}: column mean_input_tokens: all blank: one client with lengths is needed")
    _no_user_twice(str(path), read)
    total = sum(each.rate for each in known)
    mean_in = sum(each.rate * each.input_tokens for each in known) / total
    mean_out = sum(each.rate * each.output_tokens for each in known) / total
    sources = [
        replace(each, input_tokens=each.input_tokens or mean_in, output_tokens=each.output_tokens or mean_out)
        for each in read
    ]
    trace = synthetic(sources, duration_s, seed=seed, scale=scale, name=str(path))
    trace.reader = "servegen clients"
    trace.notes.append(
        f"arrivals and lengths are drawn from the client rates with seed {seed} for {duration_s:g} s; "
        f"{len(read) - len(known)} clients without lengths have the mean of the others ({mean_in:.0f}, {mean_out:.0f})"
    )
    return trace


def _client(path: Path, line: int, row: dict[str, Any]) -> Source:
    """One line of a clients file; a length that is blank is 0."""

    def number(name: str, blank: bool = False) -> float:
        text = row.get(name)
        try:
            value = 0.0 if blank and text in ("", None) else float(text or "")
        except (TypeError, ValueError):
            value = math.nan
        if not (0 < value < 1e7 or (blank and not value)):
            raise TraceError(f"{path}: line {line}: column {name}: {text!r} is not allowed: a number > 0 and < 1e7")
        return value

    if row.get("client") in ("", None):
        raise TraceError(f"{path}: line {line}: column client: blank: a name or number is needed")
    return Source(
        f"client {row['client']}",
        number("mean_rps"),
        number("mean_input_tokens", blank=True),
        number("mean_output_tokens", blank=True),
        cv=number("rate_weighted_cv"),
        spread_lengths=True,
    )
