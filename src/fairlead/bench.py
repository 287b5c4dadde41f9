"""Load on one HTTP endpoint: what to send, how fast, and what came of it.

Promise: an answer counts as good only if it is whole, has status 200 and, where the far end repeats the nonce of a
request, is the answer to that very request and of the right length. Whether it does is found out by asking once.
Latency of an open loop counts from the time at which a request was due. See ``fairlead.load``.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from http.client import HTTPConnection, HTTPException
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from fairlead.load.generator import Generator

PATH: Final = "/v1/chat/completions"
NONCE: Final = b"0" * 16
USER: Final = b"0" * 7
WORDS: Final = "lines lead many past one corner without chafing the rope runs fair over deck and block "
ASK_S: Final = 30.0
STEP_S: Final = 0.02
LONGER: Final = 10
ONCE: Final = 1e-6  # requests/s: the first is due at once


class BenchError(Exception):
    """The benchmark can't be run; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where the requests go. headers: lines that every request has, such as an Authorization."""

    host: str
    port: int
    base: str = ""
    headers: tuple[str, ...] = ()

    @staticmethod
    def of(url: str, headers: Iterable[str] = ()) -> Target:
        """Raises BenchError."""
        parts = urlsplit(url if "://" in url else "http://" + url)
        lines = tuple(headers)
        try:
            port = 80 if parts.port is None else parts.port
        except ValueError:
            port = 0
        if parts.scheme != "http" or not parts.hostname or not port or parts.query or parts.fragment or parts.username:
            raise BenchError(f"{url!r} can't be loaded: give http://HOST:PORT, as bench speaks plain HTTP only")
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon or not name.strip() or not value.strip() or not line.isascii() or not line.isprintable():
                raise BenchError(f"the header {line!r} is not allowed: give 'Name: value', in printable ASCII")
        return Target(parts.hostname, port, parts.path.rstrip("/").removesuffix("/v1"), lines)

    @property
    def authority(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def address(self) -> str:
        """In digits. Raises BenchError."""
        try:
            return str(socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0][4][0])
        except OSError as error:
            raise BenchError(f"{self.host}: {error.strerror or error}: give another host") from None

    def models(self) -> list[dict[str, Any]]:
        """What it lists. Raises BenchError."""
        connection = HTTPConnection(self.host, self.port, timeout=ASK_S)
        try:
            headers = dict(line.split(":", 1) for line in self.headers)
            connection.request("GET", self.base + "/v1/models", headers={k: v.strip() for k, v in headers.items()})
            document = orjson.loads(connection.getresponse().read())
            return [model for model in document["data"] if isinstance(model["id"], str)]
        except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise BenchError(f"{self.authority} does not list its models ({reason}): name one with --model") from None
        finally:
            connection.close()


@dataclass(frozen=True, slots=True)
class Work:
    """What is asked. rate: requests per second, 0 for the next when the last is answered; tokens: max_tokens, and
    the chunks of a stream from our own node, pace_us apart, in_step: those of all streams at once, as from an engine
    that batches; body: its least size in bytes."""

    connections: int = 64
    rate: float = 0.0
    users: int = 1
    stream: bool = False
    tokens: int = 64
    pace_us: int = 0
    in_step: bool = False
    body: int = 1024
    timeout_s: float = 60.0

    def request(self, target: Target, model: str) -> bytes:
        """As it goes over the wire; nonce and user are zeros in it."""
        mark = f"bench:{NONCE.decode()}:{self.tokens if self.stream else 0}:{self.pace_us}:{int(self.in_step)}: "
        document: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": mark}],
            "max_tokens": self.tokens,
            "stream": self.stream,
        }
        short = self.body - len(orjson.dumps(document))
        document["messages"][0]["content"] += (WORDS * (short // len(WORDS) + 1))[: max(0, short)]
        body = orjson.dumps(document)
        lines = [
            f"POST {target.base}{PATH} HTTP/1.1",
            f"Host: {target.authority}",
            "Content-Type: application/json",
            f"X-User-Id: u{USER.decode()}",
            *target.headers,
            f"Content-Length: {len(body)}",
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@dataclass(frozen=True, slots=True)
class Latencies:
    """Durations as (ns, count), smallest first."""

    pairs: Sequence[tuple[int, int]]

    @property
    def count(self) -> int:
        return sum(count for _, count in self.pairs)

    def percentile(self, percent: float) -> float:
        """Nearest rank, in ms; 0 if there is nothing."""
        wanted, seen = percent / 100 * self.count, 0
        for value, count in self.pairs:
            seen += count
            if seen >= wanted:
                return value / 1e6
        return 0.0

    def summary(self) -> dict[str, float]:
        """In ms, within 1 %."""
        total = self.count
        mean = sum(value * count for value, count in self.pairs) / total / 1e6 if total else 0.0
        found = {f"p{percent:g}": self.percentile(percent) for percent in (50, 90, 99, 99.9, 100)}
        found["max"] = found.pop("p100")
        return {name: round(value, 4) for name, value in ({"mean": mean} | found).items()}


@dataclass(frozen=True, slots=True)
class Window:
    """What happened in a stretch of time. own_cpu_ns: of this process, the generator."""

    seconds: float
    own_cpu_ns: int
    counts: dict[str, Any]

    @property
    def good(self) -> int:
        return int(self.counts["good"])

    @property
    def faults(self) -> dict[str, int]:
        return dict(self.counts["faults"])

    def latencies(self, kind: str) -> Latencies:
        """latency, first, gap, transit or lag."""
        return Latencies(self.counts[kind])

    def summary(self) -> dict[str, Any]:
        """For JSON: counts, rates per second, times in ms."""
        kinds = [kind for kind in ("latency", "first", "gap", "transit", "lag") if self.counts[kind]]
        plain = {name: value for name, value in self.counts.items() if not isinstance(value, list) and name != "length"}
        plain["statuses"] = {str(status): count for status, count in self.counts["statuses"].items()}
        return {
            "seconds": round(self.seconds, 6),
            "requests_per_s": round(self.good / self.seconds, 3),
            "chunks_per_s": round(self.counts["chunks"] / self.seconds, 3),
            "own_cpu_us": self.own_cpu_ns // 1000,
            **plain,
            **{f"{kind}_ms": self.latencies(kind).summary() for kind in kinds},
        }


class Load:
    """Work under way. ``close`` it, or use it as a context manager. Raises BenchError.

    echo None: ask once whether the far end repeats nonces, and how long its answers are.
    """

    def __init__(self, target: Target, work: Work, model: str, *, echo: bool | None = None, seed: int = 1) -> None:
        self.work = work
        length = work.tokens if work.stream else 0
        if echo is None:
            echo, length = self._ask(target, work, model, seed)
        self.echo = echo
        self._generator = self._make(target, work, model, echo, length if echo else 0, seed)

    @staticmethod
    def _make(target: Target, work: Work, model: str, echo: bool, length: int, seed: int) -> Generator:
        request = work.request(target, model)
        try:
            return Generator(
                target.address(),
                target.port,
                request,
                nonce_at=request.index(b"bench:" + NONCE) + 6,
                user_at=request.index(b"X-User-Id: u" + USER) + 12,
                users=work.users,
                connections=work.connections,
                rate=work.rate,
                stream=work.stream,
                echo=echo,
                length=length,
                timeout_ns=int(work.timeout_s * 1e9),
                seed=seed,
            )
        except (ValueError, OSError) as error:
            raise BenchError(str(error)) from None

    @classmethod
    def _ask(cls, target: Target, work: Work, model: str, seed: int) -> tuple[bool, int]:
        """One request; (whether its answer repeated the nonce, its length)."""
        one = replace(work, connections=1, rate=ONCE)
        for echo in (True, False):
            generator = cls._make(target, one, model, echo, 0, seed)
            until = time.monotonic() + work.timeout_s
            counts = generator.counts()
            while not counts["good"] and not counts["faults"] and time.monotonic() < until:
                generator.run(STEP_S)
                counts = generator.counts()
            generator.close()
            if counts["good"]:
                return echo, counts["length"]
            if "wrong_nonce" not in counts["faults"]:
                break
        raise BenchError(f"the first request to {target.authority} failed: {told(counts)}")

    def run(self, seconds: float, least: int = 0) -> Window:
        """Count what ends in the next seconds; up to LONGER times as many, until so much is good."""
        generator = self._generator
        generator.reset()
        cpu, begun = time.process_time_ns(), time.perf_counter()
        for _ in range(LONGER):
            generator.run(seconds)
            if generator.counts()["good"] >= least:
                break
        return Window(time.perf_counter() - begun, time.process_time_ns() - cpu, generator.counts())

    def settle(self, seconds: float, flowing: int) -> None:
        """Run until so many streams flow, or the time is over."""
        until = time.monotonic() + seconds
        while self._generator.counts()["flowing"] < flowing and time.monotonic() < until:
            self._generator.run(STEP_S)

    def counts(self) -> dict[str, Any]:
        """Since run began, and what has ended after it; see Generator.counts."""
        return self._generator.counts()

    def finish(self, seconds: float) -> int:
        """Ask no more, wait for what is under way; gives how many answers did not come in time."""
        return self._generator.finish(seconds)

    def close(self) -> None:
        self._generator.close()

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


FAULTS: Final = {
    "refused": "no connection",
    "cut": "the connection ended before the answer did",
    "broken_http": "not HTTP/1.1",
    "status": "status is not 200",
    "wrong_nonce": "the answer to another request",
    "wrong_length": "too long or too short",
    "bad_stream": "an error, a gap or no end in a stream",
    "timeout": "no answer in time",
}


def told(counts: dict[str, Any]) -> str:
    """The faults on one line; empty if there are none."""
    parts = [f"{count:,} x {FAULTS[name]}" for name, count in counts["faults"].items()]
    statuses = [f"{count:,} x {status}" for status, count in counts["statuses"].items() if status != 200]
    return "; ".join(parts) + (f" ({', '.join(statuses)})" if statuses else "")
