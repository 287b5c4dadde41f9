"""Workloads for the simulator that were recorded: files of requests. Readers are found by the header (CSV) or by the
keys (JSONL) alone.
"""

from __future__ import annotations

import csv
import itertools
import json
import random
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from fairlead import mixes, workload
from fairlead.workload import NAME_MAX, REQUESTS_MAX, SECONDS_MAX, TOKENS_MAX, Trace, TraceError

ZIPF: Final = 1.1


def _seconds(value: Any) -> int:
    """Seconds as a number, or a date and time in ISO 8601, in UTC unless it says otherwise."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        time = datetime.fromisoformat(value)
        return int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1_000_000) * 1000
    return _scaled(number, 1e9)


def _scaled(number: float, unit: float) -> int:
    if not 0 <= number * unit <= SECONDS_MAX * 1e9:
        raise ValueError
    return round(number * unit)


def _milliseconds(value: Any) -> int:
    return _scaled(float(value), 1e6)


def _nanoseconds(value: Any) -> int:
    return _scaled(int(value), 1)


def _capped(value: Any) -> int:
    return workload.tokens(min(value, TOKENS_MAX))


COUNT: Final = f"a whole number of tokens, 0..{TOKENS_MAX}"
NAME: Final = f"a name of 1..{NAME_MAX} characters"
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
    "input": (
        dict.fromkeys(("input_tokens", "prompt_tokens", "ContextTokens", "input_length"), workload.tokens),
        COUNT,
    ),
    "output": (
        dict.fromkeys(("output_tokens", "completion_tokens", "GeneratedTokens", "output_length"), workload.tokens),
        COUNT,
    ),
    "user": (dict.fromkeys(("user", "client", "tenant", "user_id"), workload.name), NAME),
    "model": ({"model": workload.name}, NAME),
    "max": (dict.fromkeys(("max_tokens", "max_output_tokens"), workload.tokens), COUNT),
}
REQUIRED: Final = ("arrival", "input", "output")
COUNTED: Final = {"input", "output", "max"}  # tokens
LOG_NAMES: Final = {"outcome", "tokens_by"}  # what only the router's own request log has


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
    log = False
    for line, text in enumerate(file, 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except ValueError:
            row = None
        if log and row is None:
            row = {"outcome": "torn line"}  # a disk was full for a while
        if not isinstance(row, dict):
            raise TraceError(
                f"{path}: line {line}: {text.strip()[:60]!r} is not a JSON object: one per line is allowed"
            )
        log = log or row.keys() >= LOG_NAMES
        yield line, row


def _csv_rows(path: Path, file: Any) -> Rows:
    lines = csv.reader(file)
    try:
        header = [name.strip() for name in next(lines)]
        if len(set(header)) < len(header):
            raise TraceError(f"{path}: line 1: a column is there twice in {','.join(header)[:80]!r}: name each once")
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
    names, rows = set(first[1]), itertools.chain([first], rows)
    if "mean_rps" in names:
        return mixes.servegen(path, rows, seed, duration_s, scale)
    columns, log = _columns(path, first[0], names), names >= LOG_NAMES
    if log:
        # The router lets clients ask for more tokens than the simulator reckons with, and nodes tell of more.
        columns |= {each: replace(columns[each], parse=_capped) for each in columns.keys() & COUNTED}
    trace = _collect(path, rows, columns, log)
    if "user" not in columns:
        _zipf(trace, seed, zipf_users)
    return workload.in_order(trace, scale)


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
    vtc = names.get("user") == "client" and names["arrival"] == "arrival_s"
    return {"ContextTokens": "azure", "input_length": "mooncake"}.get(names["input"], "vtc arena" if vtc else "generic")


def _collect(path: Path, rows: Rows, columns: dict[str, Column], log: bool) -> Trace:
    """log: it is the router's own, which has null for the tokens of what nobody counted."""
    trace = Trace(str(path), "request log" if log else _reader(columns))
    users: dict[str, int] = {}
    models: dict[str, int] = {}
    uncounted: Counter[str] = Counter()
    user, model, limit = columns.get("user"), columns.get("model"), columns.get("max")
    for line, row in rows:
        if log and None in (row.get("input_tokens"), row.get("output_tokens")):
            uncounted[str(row.get("outcome"))[:20]] += 1
            continue

        def value(column: Column, line: int = line, row: dict[str, Any] = row) -> Any:
            try:
                return column.parse(row[column.name])
            except (KeyError, TypeError, ValueError, OverflowError):
                shown = repr(row.get(column.name))[:60]
                raise TraceError(
                    f"{path}: line {line}: column {column.name}: {shown} is not allowed: {column.allowed}"
                ) from None

        if len(trace) == REQUESTS_MAX:
            raise workload.too_many(str(path), "give a part of the file")
        trace.arrival_ns.append(value(columns["arrival"]))
        trace.input_tokens.append(value(columns["input"]))
        trace.output_tokens.append(value(columns["output"]))
        trace.user.append(users.setdefault(value(user), len(users)) if user else 0)
        trace.model.append(models.setdefault(value(model), len(models)) if model else 0)
        trace.max_tokens.append(value(limit) if limit and row.get(limit.name) not in (None, "") else 0)
    trace.users, trace.models = list(users), list(models) or ["any"]
    if uncounted:
        told = ", ".join(f"{outcome} {count}" for outcome, count in sorted(uncounted.items()))
        trace.notes.append(f"requests whose tokens nobody counted were left out: {told}")
    if not trace:
        raise TraceError(f"{path}: no request with its tokens, and at least one is needed: {trace.notes[0]}")
    return trace


def _zipf(trace: Trace, seed: int, users: int) -> None:
    """Give every request a user: user k with a chance in proportion to 1 / k ** ZIPF."""
    draw = random.Random(f"users {seed}").random
    sums = list(itertools.accumulate(1 / k**ZIPF for k in range(1, users + 1)))
    trace.users = [f"z{k}" for k in range(1, users + 1)]
    trace.user = array("q", (min(bisect_left(sums, draw() * sums[-1]), users - 1) for _ in range(len(trace))))
    trace.users_drawn = True
    trace.notes.append(f"the trace has no users: {users} were drawn from Zipf({ZIPF}) with seed {seed}")
