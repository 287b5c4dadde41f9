"""Workloads for the simulator: files of requests, or a mix that is drawn from a seed.

A ``Trace`` has one entry per request in each of its columns, sorted by arrival: times in nanoseconds from the first
arrival, lengths in tokens, users and models as indices into their names. Readers are found by the header (CSV) or by
the keys (JSONL) alone; whatever had to be made up is said in ``notes``.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import random
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from fairlead.errors import ConfigError

TOKENS_MAX: Final = 2**28  # input + 2 * output stays below the core's largest cost
SECONDS_MAX: Final = 4e9  # 2**62 ns is about 4.6e9 s
ZIPF: Final = 1.1


class TraceError(ConfigError):
    """A workload that can't be used; the message has file, line, column, value and what is allowed."""


@dataclass(slots=True)
class Trace:
    """Requests in order of arrival. ``max_tokens`` is 0 where the client named no limit."""

    source: str
    reader: str
    users: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    arrival_ns: array[int] = field(default_factory=lambda: array("q"))
    user: array[int] = field(default_factory=lambda: array("q"))
    model: array[int] = field(default_factory=lambda: array("q"))
    input_tokens: array[int] = field(default_factory=lambda: array("q"))
    output_tokens: array[int] = field(default_factory=lambda: array("q"))
    max_tokens: array[int] = field(default_factory=lambda: array("q"))
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.arrival_ns)


def _seconds(value: Any) -> int:
    """Seconds as a number, or a date and time in ISO 8601."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return int(datetime.fromisoformat(value).timestamp() * 1_000_000) * 1000
    return _scaled(number, 1e9)


def _scaled(number: float, unit: float) -> int:
    if not 0 <= number * unit <= SECONDS_MAX * 1e9:
        raise ValueError
    return round(number * unit)


def _milliseconds(value: Any) -> int:
    return _scaled(float(value), 1e6)


def _nanoseconds(value: Any) -> int:
    return _scaled(int(value), 1)


def _tokens(value: Any) -> int:
    number = int(value)
    if not 0 <= number <= TOKENS_MAX or isinstance(value, bool | float):
        raise ValueError
    return number


def _name(value: Any) -> str:
    text = str(value)
    if value is None or not text or len(text) > 200:
        raise ValueError
    return text


COUNT: Final = f"a whole number of tokens, 0..{TOKENS_MAX}"
NAME: Final = "a name of 1..200 characters"
Parser = Callable[[Any], Any]
# What a column may be called, how it is read, and what is allowed in it.
COLUMNS: Final[dict[str, tuple[dict[str, Parser], str]]] = {
    "arrival": (
        {
            "arrival_s": _seconds,
            "arrival": _seconds,
            "TIMESTAMP": _seconds,
            "timestamp": _seconds,
            "time": _seconds,
            "timestamp_ms": _milliseconds,
            "arrival_ms": _milliseconds,
            "arrival_ns": _nanoseconds,
        },
        "seconds >= 0 or an ISO 8601 time",
    ),
    "input": (dict.fromkeys(("input_tokens", "prompt_tokens", "ContextTokens", "input_length"), _tokens), COUNT),
    "output": (
        dict.fromkeys(("output_tokens", "completion_tokens", "GeneratedTokens", "output_length"), _tokens),
        COUNT,
    ),
    "user": (dict.fromkeys(("user", "client", "tenant", "user_id"), _name), NAME),
    "model": ({"model": _name}, NAME),
    "max": (dict.fromkeys(("max_tokens", "max_output_tokens"), _tokens), COUNT),
}
REQUIRED: Final = ("arrival", "input", "output")


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a file: its own name, how a value is read and what may stand there."""

    name: str
    parse: Parser
    allowed: str


def read(path: Path, *, seed: int = 1, zipf_users: int = 100, duration_s: float = 600.0, scale: float = 1.0) -> Trace:
    """The requests of a file; of a ServeGen clients file, a mix drawn for ``duration_s``.

    ``scale`` multiplies the rate of arrivals. A file without users is given ``zipf_users`` of them from ``seed``.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            if not first.strip():
                raise TraceError(f"{path}: line 1: no header and no data: a CSV or JSONL file of requests is needed")
            rows = _json_rows(path, file) if first.lstrip().startswith("{") else _csv_rows(path, file)
            return _read_rows(path, rows, seed, zipf_users, duration_s, scale)
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}: name a CSV or JSONL file") from None
    except UnicodeDecodeError:
        raise TraceError(f"{path}: not text in UTF-8: name a CSV or JSONL file") from None


Rows = Iterator[tuple[int, dict[str, Any]]]


def _json_rows(path: Path, file: Any) -> Rows:
    for line, text in enumerate(file, 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise TraceError(
                f"{path}: line {line}: {text.strip()[:60]!r} is not a JSON object: one per line is allowed"
            )
        yield line, row


def _csv_rows(path: Path, file: Any) -> Rows:
    lines = csv.reader(file)
    try:
        header = [name.strip() for name in next(lines)]
        for cells in lines:
            if not cells:
                continue
            if len(cells) != len(header):
                raise TraceError(
                    f"{path}: line {lines.line_num}: {len(cells)} columns, the header has {len(header)}: "
                    f"as many values as {','.join(header)[:80]} are allowed"
                )
            yield lines.line_num, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise TraceError(f"{path}: line {lines.line_num}: {error}: comma-separated values are allowed") from None


def _read_rows(path: Path, rows: Rows, seed: int, zipf_users: int, duration_s: float, scale: float) -> Trace:
    first = next(rows, None)
    if first is None:
        raise TraceError(f"{path}: line 2: no requests: at least one is needed")
    names = set(first[1])
    rows = itertools.chain([first], rows)
    if "mean_rps" in names:
        return _servegen(path, rows, seed, duration_s, scale)
    columns = _columns(path, first[0], names)
    trace = _collect(path, rows, columns)
    if "user" not in columns:
        _zipf(trace, seed, zipf_users)
    return _in_order(trace, scale)


def _columns(path: Path, line: int, names: set[str]) -> dict[str, Column]:
    """The file's columns by what they mean."""
    columns: dict[str, Column] = {}
    for meaning, (known, allowed) in COLUMNS.items():
        for name, parse in known.items():
            if name in names:
                columns[meaning] = Column(name, parse, allowed)
                break
        else:
            if meaning in REQUIRED:
                found = ", ".join(sorted(names))[:100]
                raise TraceError(f"{path}: line {line}: no column {meaning} in {found!r}: call it {' or '.join(known)}")
    if columns["arrival"].name == "timestamp" and columns["input"].name == "input_length":
        columns["arrival"] = Column("timestamp", _milliseconds, "milliseconds >= 0")  # Mooncake's
    return columns


def _reader(columns: dict[str, Column]) -> str:
    names = {meaning: column.name for meaning, column in columns.items()}
    if names["input"] == "ContextTokens":
        return "azure"
    if names["input"] == "input_length":
        return "mooncake"
    if names["input"] == "prompt_tokens":
        return "request log"
    return "vtc arena" if names.get("user") == "client" and names["arrival"] == "arrival_s" else "generic"


def _collect(path: Path, rows: Rows, columns: dict[str, Column]) -> Trace:
    trace = Trace(str(path), _reader(columns))
    users: dict[str, int] = {}
    models: dict[str, int] = {}
    unfinished = 0
    user, model, limit = columns.get("user"), columns.get("model"), columns.get("max")
    for line, row in rows:
        if columns["output"].name == "completion_tokens" and row.get("completion_tokens", 0) is None:
            unfinished += 1
            continue

        def value(column: Column, line: int = line, row: dict[str, Any] = row) -> Any:
            try:
                return column.parse(row[column.name])
            except (KeyError, TypeError, ValueError, OverflowError):
                shown = repr(row.get(column.name))[:60]
                raise TraceError(
                    f"{path}: line {line}: column {column.name}: {shown} is not allowed: {column.allowed}"
                ) from None

        trace.arrival_ns.append(value(columns["arrival"]))
        trace.input_tokens.append(value(columns["input"]))
        trace.output_tokens.append(value(columns["output"]))
        trace.user.append(users.setdefault(value(user), len(users)) if user else 0)
        trace.model.append(models.setdefault(value(model), len(models)) if model else 0)
        trace.max_tokens.append(value(limit) if limit and row.get(limit.name) not in (None, "") else 0)
    trace.users, trace.models = list(users), list(models) or ["any"]
    if unfinished:
        trace.notes.append(f"{unfinished} lines without completion_tokens were left out")
    if not trace:
        raise TraceError(f"{path}: no finished requests: at least one is needed")
    return trace


def _zipf(trace: Trace, seed: int, users: int) -> None:
    """Give every request a user: user k with a chance in proportion to 1 / k ** ZIPF."""
    draw = random.Random(f"users {seed}").random
    sums = list(itertools.accumulate(1 / k**ZIPF for k in range(1, users + 1)))
    trace.users = [f"z{k}" for k in range(1, users + 1)]
    trace.user = array("q", (min(bisect_left(sums, draw() * sums[-1]), users - 1) for _ in range(len(trace))))
    trace.notes.append(f"the trace has no users: {users} were drawn from Zipf({ZIPF}) with seed {seed}")


def _in_order(trace: Trace, scale: float) -> Trace:
    """Sorted by arrival (ties stay in the file's order), the first at 0, the rate multiplied by ``scale``."""
    arrival = trace.arrival_ns
    order = sorted(range(len(arrival)), key=arrival.__getitem__)
    start = arrival[order[0]]
    trace.arrival_ns = array(
        "q", (int((arrival[i] - start) / scale) if scale != 1 else arrival[i] - start for i in order)
    )
    for name in ("user", "model", "input_tokens", "output_tokens", "max_tokens"):
        column = getattr(trace, name)
        setattr(trace, name, array("q", (column[i] for i in order)))
    return trace


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


FORM: Final = "USER:RATE/s:INPUT:OUTPUT with :even and :on=S:off=S where wanted, as light:0.5/s:256:256:even"


def parse_mix(text: str) -> list[Source]:
    """``light:0.5/s:256:256,heavy:3/s:256:256:even:on=60:off=60``."""
    sources = []
    for part in text.split(","):
        try:
            sources.append(_source(part.strip()))
        except (ValueError, IndexError):
            raise TraceError(f"--synthetic: {part!r} is not allowed: {FORM}") from None
    names = [source.user for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise TraceError(f"--synthetic: user {name!r} is there twice: every user once is allowed")
    return sources


def _source(text: str) -> Source:
    user, rate, size, output, *options = text.split(":")
    source = Source(_name(user), float(rate.removesuffix("/s")), _tokens(size), _tokens(output), even="even" in options)
    times = dict(option.split("=") for option in options if option != "even")
    on_s, off_s = float(times.pop("on", "inf")), float(times.pop("off", 0))
    if times or not 0 < source.rate <= 1e6 or not on_s > 0 or not 0 <= off_s <= 1e9:
        raise ValueError
    return Source(source.user, source.rate, source.input_tokens, source.output_tokens, source.even, on_s, off_s)


def synthetic(sources: list[Source], duration_s: float, *, seed: int = 1, name: str = "synthetic") -> Trace:
    """The mix over ``duration_s``: each user's arrivals from its own stream of the seed."""
    trace = Trace(name, "synthetic", users=[source.user for source in sources], models=["any"])
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
                column.append(max(1, round(length)) if mean else 0)
    if not trace:
        raise TraceError(f"{name}: no request in {duration_s:g} s: give a larger rate or --duration")
    return _in_order(trace, 1.0)


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


def _servegen(path: Path, rows: Rows, seed: int, duration_s: float, scale: float) -> Trace:
    """A mix from client rates, burstiness and mean lengths. Clients without lengths get the mean of the others."""
    found: list[tuple[str, float, float, float | None, float | None]] = []
    for line, row in rows:

        def number(name: str, line: int = line, row: dict[str, Any] = row, blank: bool = False) -> float | None:
            text = row.get(name)
            try:
                if blank and text == "":
                    return None
                value = float(text or "")
                if 0 < value < 1e7:
                    return value
            except ValueError:
                value = math.nan
            raise TraceError(f"{path}: line {line}: column {name}: {text!r} is not allowed: a number > 0 and < 1e7")

        rate, cv = number("mean_rps"), number("rate_weighted_cv")
        means = number("mean_input_tokens", blank=True), number("mean_output_tokens", blank=True)
        found.append((f"client {row.get('client')}", (rate or 0) * scale, cv or 1, *means))
    known = [(entry[1], entry[3], entry[4]) for entry in found if entry[3] is not None and entry[4] is not None]
    if not known:
        raise TraceError(f"{path}: column mean_input_tokens: all blank: one client with lengths is needed")
    total = sum(rate for rate, _, _ in known)
    mean_in = sum(rate * size for rate, size, _ in known) / total
    mean_out = sum(rate * output for rate, _, output in known) / total
    sources = [
        Source(name, rate, size or mean_in, output or mean_out, cv=cv, spread_lengths=True)
        for name, rate, cv, size, output in found
    ]
    trace = synthetic(sources, duration_s, seed=seed, name=str(path))
    trace.reader = "servegen clients"
    trace.notes.append(
        f"arrivals and lengths are drawn from the client rates with seed {seed} for {duration_s:g} s; "
        f"{len(found) - len(known)} clients without lengths have the mean of the others ({mean_in:.0f}, {mean_out:.0f})"
    )
    return trace
