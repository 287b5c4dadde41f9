"""Every key of the configuration: how it is read, its default, what is allowed and what it means.

Promise: the table below is the only place where a key is described. The loader reads with it, the defaults are read by
the same parsers, and the README's table is made from it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar
from urllib.parse import urlsplit

from fairlead.clock import MILLISECOND_NS, SECOND_NS
from fairlead.config_file import Value
from fairlead.strict import digits, shown

T = TypeVar("T")
Address = tuple[str, int]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

POLICIES: Final = ("fifo", "round_robin", "wfq", "token_wfq")
OVERFLOWS: Final = ("reject", "push_out")
TIERS: Final = ("high", "normal", "low")  # the first is the highest
TIER_POLICIES: Final = ("weighted", "strict")
WITHIN_USER: Final = ("arrival", "deadline")
ROUTINGS: Final = ("score", "score_raw", "least_loaded", "p2c")
ENGINES: Final = ("vllm", "sglang", "llamacpp", "ollama", "openai")
LEVELS: Final = ("debug", "info", "warning", "error")
LOG_WORDS: Final = ("stdout", "stderr", "none")
NAME_MAX: Final = 128
TEAMS_MAX: Final = 1000

_DURATION: Final = re.compile(r"([0-9]+)(ms|s|m|h)")
_SIZE: Final = re.compile(r"([0-9]+)(KiB|MiB|GiB)?")
_DURATION_UNITS: Final = {"ms": MILLISECOND_NS, "s": SECOND_NS, "m": 60 * SECOND_NS, "h": 3600 * SECOND_NS}
_SIZE_UNITS: Final = {None: 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_FRACTION: Final = re.compile(r"[0-9]{1,4}(\.[0-9]{1,9})?")
_PRICE: Final = re.compile(r"[0-9]{1,4}(\.[0-9]{1,3})?")
_HOST: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}")
_PATH: Final = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_NODE_NAME: Final = re.compile(r"[A-Za-z0-9._:\[\]-]{1,128}")
_API_KEY: Final = re.compile(r"[\x21-\x7e]{1,4096}")
_CREDENTIALS: Final = re.compile("//.*@")
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9-]{1,64}")


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """How text becomes a value. parse raises ValueError for text that is not allowed; its own message, if it has
    one, is told as well. A secret's text and credentials in a URL are not."""

    allowed: str
    parse: Callable[[str], T]
    suffix: str = ""
    secret: bool = False

    def read(self, value: Value) -> T:
        text = value.text()
        try:
            return self.parse(text)
        except ValueError as error:
            told = "the value" if self.secret else shown(_CREDENTIALS.sub("//***@", text))
            reason = f" ({error})" if error.args else ""
            raise value.fail(f"{told} is not allowed{reason}: choose {self.allowed}") from None


@dataclass(frozen=True, slots=True)
class Key:
    kind: Kind[Any]
    default: str
    meaning: str


def integer(low: int, high: int) -> Kind[int]:
    def parse(text: str) -> int:
        value = digits(text, low, high)
        if value is None:
            raise ValueError
        return value

    return Kind(f"an integer {low}..{high}", parse)


def _scaled(text: str, pattern: re.Pattern[str], units: dict[Any, int], low: str, high: str) -> int:
    """A number with a unit, low..high."""

    def value(match: re.Match[str]) -> int:
        count = digits(match[1], 0, 10**15)
        if count is None:
            raise ValueError
        return count * units[match[2]]

    match, bottom, top = (pattern.fullmatch(each) for each in (text, low, high))
    if match is None or bottom is None or top is None or not value(bottom) <= value(match) <= value(top):
        raise ValueError
    return value(match)


def duration(low: str, high: str) -> Kind[int]:
    """Nanoseconds; the field that holds them ends in _ns."""
    allowed = f"a duration {low}..{high} (units ms, s, m, h)"
    return Kind(allowed, lambda text: _scaled(text, _DURATION, _DURATION_UNITS, low, high), suffix="_ns")


def size(low: str, high: str) -> Kind[int]:
    allowed = f"a size {low}..{high} (bytes, KiB, MiB, GiB)"
    return Kind(allowed, lambda text: _scaled(text, _SIZE, _SIZE_UNITS, low, high))


def choice(*names: str) -> Kind[str]:
    def parse(text: str) -> str:
        if text not in names:
            raise ValueError
        return text

    return Kind(" | ".join(names), parse)


def or_word(word: str, kind: Kind[T]) -> Kind[T | None]:
    """The kind, or a word that stands for None."""
    return Kind(f"{kind.allowed}, or {word}", lambda text: None if text == word else kind.parse(text))


def _yes(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError
    return text == "true"


def matching(pattern: re.Pattern[str], allowed: str, *, secret: bool = False) -> Kind[str]:
    def parse(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError
        return text

    return Kind(allowed, parse, secret=secret)


def _fraction(text: str) -> float:
    if not _FRACTION.fullmatch(text) or float(text) > 1:
        raise ValueError
    return float(text)


def _price(text: str) -> float:
    if not _PRICE.fullmatch(text) or float(text) > 1000:
        raise ValueError
    return float(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table(Kind[dict[str, T]]):
    """A mapping with a value of one kind for each name of the default; what it leaves out is the default's."""

    entry: Kind[T]
    default: dict[str, T]

    def read(self, value: Value) -> dict[str, T]:
        given = {name: self.entry.read(each) for name, each in value.mapping(self.default).items()}
        return self.default | given


def table(entry: Kind[T], default: str) -> Table[T]:
    """default: as the table of keys writes it, {NAME: VALUE, ...}."""

    def parse(text: str) -> dict[str, T]:
        pairs = (pair.split(": ") for pair in text.strip("{}").split(", "))
        return {name: entry.parse(value) for name, value in pairs}

    names = parse(default)
    return Table(f"{', '.join(names)}, each {entry.allowed}", parse, entry=entry, default=names)


def _host(text: str) -> str:
    """A name or an IPv4 address, or an IPv6 address without its brackets."""
    if ":" in text:
        return str(ipaddress.IPv6Address(text))
    if not _HOST.fullmatch(text):
        raise ValueError
    return text.lower()


def _address(text: str) -> Address:
    host, _, port_text = text.rpartition(":")
    port = digits(port_text, 0, 65535)
    bracketed = host.startswith("[") and host.endswith("]")
    if port is None or (":" in host) != bracketed:
        raise ValueError
    return _host(host[1:-1] if bracketed else host), port


def _loopback(text: str) -> Address:
    host, port = _address(text)
    if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
        raise ValueError("any other address would need a token, which this version doesn't have")
    return host, port


def _network(text: str) -> Network:
    network = ipaddress.ip_network(text)
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:
        # Clients of a dual-stack socket are compared as the IPv4 addresses that they are.
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.IPv4Network((mapped, network.prefixlen - 96))
    return network


def _url(text: str) -> str:
    """The URL in one spelling: lower case, no default port, no slash at its end."""
    if "@" in text:
        raise ValueError("credentials don't belong into a URL, use api_key")
    if not re.fullmatch(r"https?://[\x21-\x7e]+", text, re.IGNORECASE) or set("?#%\\") & set(text):
        raise ValueError
    parts = urlsplit(text)
    path = parts.path.rstrip("/")
    if (path and not _PATH.fullmatch(path)) or {".", ".."} & set(path.split("/")):
        raise ValueError
    if path.endswith("/v1"):
        raise ValueError("leave /v1 out, a request brings its whole path along")
    host = _host(parts.hostname or "")
    port = parts.port  # raises ValueError above 65535
    if port == 0 or parts.netloc.endswith(":"):
        raise ValueError
    shown_host = f"[{host}]" if ":" in host else host
    default = {"http": 80, "https": 443}[parts.scheme]
    return f"{parts.scheme}://{shown_host}{'' if port in (None, default) else f':{port}'}{path}"


def _team_name(text: str) -> str:
    if not text.isprintable() or not 1 <= len(text) <= NAME_MAX:
        raise ValueError
    return text


def _extra_path(text: str) -> str:
    if len(text) > 128 or not _PATH.fullmatch(text) or {".", ".."} & set(text.split("/")):
        raise ValueError
    if text == "/health" or text.startswith("/health/"):
        raise ValueError("/health is the router's own")
    return text


def _log_target(text: str) -> str:
    if text not in LOG_WORDS and not (text.startswith(("/", "./", "../")) and text.isprintable()):
        raise ValueError
    return text


ADDRESS: Final = Kind("HOST:PORT", _address)
ADMIN_ADDRESS: Final = or_word("none", Kind("HOST:PORT on loopback, such as 127.0.0.1:8081", _loopback))
NETWORK: Final = Kind("an address or a network, such as ::1 or 10.0.0.0/8 (no bits set behind the prefix)", _network)
URL: Final = Kind("http(s)://HOST[:PORT][/BASE] without user, query and fragment", _url)
EXTRA_PATH: Final = Kind("a path such as /api/chat, at most 128 characters", _extra_path)
NODE_NAME: Final = matching(_NODE_NAME, "1..128 letters, digits and . _ : - [ ]")
API_KEY: Final = matching(_API_KEY, "1..4096 printable ASCII characters without blanks, or leave it empty", secret=True)
HEADER_NAME: Final = matching(_HEADER_NAME, "the name of a header: 1..64 letters, digits and -")
YES: Final = Kind("true | false", _yes)
LOG_TARGET: Final = Kind(f"{' | '.join(LOG_WORDS)}, or a file: /PATH, or ./PATH from where it is started", _log_target)
FRACTION: Final = Kind("a number 0..1", _fraction)
PRICE: Final = Kind("a number 0..1000 with at most 3 decimals", _price)
PRICES_DEFAULT: Final = "{input: 1, output: 2, cached_input: 1}"
TIERS_DEFAULT: Final = "{high: 16, normal: 4, low: 1}"
WEIGHT: Final = integer(1, 10_000)
IN_FLIGHT: Final = integer(0, 1_000_000)
TEAM_NAME: Final = or_word("none", Kind("a name from teams", _team_name))
TIME: Final = duration("1ms", "24h")
GRACE: Final = duration("0s", "24h")

# Keys that stand alone or in lists; config.py reads them one by one.
TOP: Final[dict[str, Key]] = {
    "listen": Key(ADDRESS, "127.0.0.1:8080", "where clients come: inference, /v1/models, /health"),
    "admin": Key(ADMIN_ADDRESS, "127.0.0.1:8081", "metrics and admin API"),
}
LISTS: Final[dict[str, tuple[str, str]]] = {
    "trusted_proxies": (
        '[127.0.0.0/8, "::1"]',
        "clients that may say who the user is: a list of addresses or networks",
    ),
    "identity": (
        "[{header: X-User-Id}, client_address]",
        "who the user is, first match wins: a list of {header: NAME}, {body: user}, client_address",
    ),
}
NODE: Final[dict[str, Key]] = {
    "name": Key(NODE_NAME, "HOST:PORT of the url", "what the node is called in logs, metrics and the admin API"),
    "url": Key(URL, "(required)", "where it is (an entry of nodes may be just this)"),
    "slots": Key(or_word("auto", integer(1, 65536)), "auto", "requests it works on at once (auto: ask the engine)"),
    "engine": Key(or_word("auto", choice(*ENGINES)), "auto", "what it runs (auto: recognise it)"),
    "api_key": Key(API_KEY, "(none)", "key the router shows to this node"),
    "api_key_file": Key(matching(re.compile(".+"), "a file"), "(none)", "file that holds the api_key"),
    "paths": Key(EXTRA_PATH, "[]", "list of further inference paths to relay to it"),
    "include_usage": Key(YES, "true", "ask it for the usage of streams if it does not tell unasked (policy token_wfq)"),
}
USER: Final[dict[str, Key]] = {
    "weight": Key(WEIGHT, "1", "share relative to those it competes with (policy wfq, token_wfq)"),
    "max_in_flight": Key(IN_FLIGHT, "0", "requests that may run at once (0: no limit)"),
    "priority": Key(choice(*TIERS), "normal", "tier it is served in, and the highest that X-Priority may ask for"),
    "team": Key(TEAM_NAME, "none", "team whose share it has part in"),
}
TEAM: Final[dict[str, Key]] = {
    "weight": Key(WEIGHT, "1", "share relative to other teams and to users without one (policy wfq, token_wfq)"),
    "max_in_flight": Key(IN_FLIGHT, "0", "requests of the team that may run at once (0: no limit)"),
}
SECTIONS: Final[dict[str, dict[str, Key]]] = {
    "queue": {
        "policy": Key(choice(*POLICIES), "wfq", "who is next"),
        "prices": Key(table(PRICE, PRICES_DEFAULT), PRICES_DEFAULT, "what a token costs (policy token_wfq)"),
        "tiers": Key(table(WEIGHT, TIERS_DEFAULT), TIERS_DEFAULT, "shares of the tiers (tier_policy weighted)"),
        "tier_policy": Key(choice(*TIER_POLICIES), "weighted", "tiers share by weight, or a higher one goes first"),
        "promote_after": Key(TIME, "30s", "wait that entitles a lower tier to one turn in four (tier_policy strict)"),
        "within_user": Key(choice(*WITHIN_USER), "arrival", "which of a user's own requests is next"),
        "max_waiting": Key(integer(0, 1_000_000), "1000", "requests that may wait, of all users"),
        "max_waiting_per_user": Key(integer(0, 1_000_000), "500", "requests of one user that may wait (0: no limit)"),
        "max_in_flight_per_pool": Key(IN_FLIGHT, "0", "requests of one pool that may run at once (0: no limit)"),
        "max_bytes": Key(size("64KiB", "1024GiB"), "256MiB", "bodies of waiting requests together"),
        "overflow": Key(
            choice(*OVERFLOWS), "push_out", "when full: a user below its share pushes others out, or nobody gets in"
        ),
        "timeout": Key(TIME, "60s", "longest wait in the queue"),
        "no_node_wait": Key(GRACE, "10s", "longest wait while no node of the model is usable"),
    },
    "routing": {
        "policy": Key(choice(*ROUTINGS), "score", "which node of those that have room"),
        "gpu_weight": Key(FRACTION, "0.3", "what GPU load counts in a score"),
        "queue_weight": Key(FRACTION, "0.7", "what the node's requests per slot count in a score"),
    },
    "timeouts": {
        "head": Key(TIME, "10s", "reading a request's head, and the wait for a connection's first"),
        "body": Key(TIME, "30s", "reading a request's body"),
        "connect": Key(TIME, "1s", "connecting to a node"),
        "first_byte": Key(TIME, "120s", "first byte of a streamed answer"),
        "idle": Key(TIME, "30s", "between two pieces of a streamed answer"),
        "total": Key(TIME, "1h", "a request altogether"),
        "write_stall": Key(TIME, "30s", "a client that takes nothing of its answer"),
        "keep_alive": Key(TIME, "60s", "a client's connection between requests"),
        "drain": Key(GRACE, "300s", "running requests at shutdown"),
    },
    "limits": {
        "body": Key(size("1KiB", "1GiB"), "32MiB", "a request's body"),
        "head": Key(size("1KiB", "256KiB"), "32KiB", "a request's head"),
        "connections": Key(integer(1, 1_000_000), "20000", "clients' connections"),
        "width": Key(integer(1, 1024), "16", "sequences that one request may run (n, best_of, prompts)"),
    },
    "health": {
        "period": Key(duration("10ms", "1h"), "2s", "between two probes of a node"),
        "timeout": Key(duration("10ms", "1h"), "2s", "a probe"),
        "unhealthy_after": Key(integer(1, 100), "2", "failed probes in a row that take a node out"),
        "healthy_after": Key(integer(1, 100), "1", "good probes in a row that bring it back"),
    },
    "log": {
        "level": Key(choice(*LEVELS), "info", "least important line that is logged (to stderr)"),
        "requests": Key(LOG_TARGET, "stdout", "where a line goes for every request that ended"),
    },
}
KNOWN: Final = (*TOP, *LISTS, "nodes", "users", "teams", *SECTIONS)
