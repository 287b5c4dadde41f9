"""The configuration: one strict file, or a few URLs, as frozen data.

Promise: ``load`` returns a configuration in which every number is in range, every name unique and every default
filled in, or raises one ConfigError of one line: FILE:LINE, key, value, what is allowed, nearest known key. Only keys
that work are known. Secrets appear in no message and no repr.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar
from urllib.parse import urlsplit

from fairlead.config_file import Value, default_value, flag_value, read_file
from fairlead.config_schema import (
    API_KEY,
    EXTRA_PATH,
    HEADER_NAME,
    KNOWN,
    LISTS,
    NAME_MAX,
    NETWORK,
    NODE,
    NODE_NAME,
    SECTIONS,
    TEAM,
    TEAMS_MAX,
    TOP,
    URL,
    USER,
    Address,
    Network,
)
from fairlead.errors import ConfigError
from fairlead.strict import shown

Section = TypeVar("Section")

KEY_FILE_MAX = 65536


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """None means: ask the node. url has no slash at its end."""

    name: str
    url: str
    slots: int | None = None
    engine: str | None = None
    api_key: str | None = field(default=None, repr=False)
    paths: tuple[str, ...] = ()
    include_usage: bool = True


@dataclass(frozen=True, slots=True)
class QueueConfig:
    """prices: of a token, only policy token_wfq looks at them; tiers: weights, by config_schema.TIERS."""

    policy: str
    prices: Mapping[str, float]
    tiers: Mapping[str, int]
    tier_policy: str
    promote_after_ns: int
    within_user: str
    max_waiting: int
    max_waiting_per_user: int
    max_in_flight_per_pool: int
    max_bytes: int
    overflow: str
    timeout_ns: int
    no_node_wait_ns: int


@dataclass(frozen=True, slots=True)
class RoutingConfig:
    policy: str
    gpu_weight: float
    queue_weight: float


@dataclass(frozen=True, slots=True)
class UserConfig:
    """team: None if it has none."""

    weight: int
    max_in_flight: int
    priority: str
    team: str | None


@dataclass(frozen=True, slots=True)
class TeamConfig:
    weight: int
    max_in_flight: int


@dataclass(frozen=True, slots=True)
class TimeoutsConfig:
    head_ns: int
    body_ns: int
    connect_ns: int
    first_byte_ns: int
    idle_ns: int
    total_ns: int
    write_stall_ns: int
    keep_alive_ns: int
    drain_ns: int


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    body: int
    head: int
    connections: int
    width: int


@dataclass(frozen=True, slots=True)
class HealthConfig:
    period_ns: int
    timeout_ns: int
    unhealthy_after: int
    healthy_after: int


@dataclass(frozen=True, slots=True)
class LogConfig:
    """requests: "stdout", "stderr", "none" or a path."""

    level: str
    requests: str


@dataclass(frozen=True, slots=True)
class IdentitySource:
    """kind: "header" | "body" | "client_address"; name: the header's, "user", or ""."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Config:
    """users holds every user of the file but ``default``, which is default_user."""

    listen: Address
    admin: Address | None
    trusted_proxies: tuple[Network, ...]
    nodes: tuple[NodeConfig, ...]
    queue: QueueConfig
    routing: RoutingConfig
    identity: tuple[IdentitySource, ...]
    users: Mapping[str, UserConfig]
    default_user: UserConfig
    teams: Mapping[str, TeamConfig]
    timeouts: TimeoutsConfig
    limits: LimitsConfig
    health: HealthConfig
    log: LogConfig


def load(path: Path | None, *, nodes: Sequence[str] = (), env: Mapping[str, str]) -> Config:
    """The configuration of a file, of node URLs from the command line, or of both. Raises ConfigError."""
    file = read_file(path, env) if path is not None else None
    top = file.mapping(KNOWN, _every_name()) if file is not None else {}
    listed = top["nodes"].sequence() if "nodes" in top else []
    flags = [flag_value(url, len(listed) + index) for index, url in enumerate(nodes)]
    if file is not None and not listed and not flags:
        where = top.get("nodes", file).where
        raise ConfigError(f'{where}: nodes: no node is named: write nodes: ["http://HOST:PORT"] or give --node URL')
    listen, admin = _read(top, "listen", TOP), _read(top, "admin", TOP)
    if admin == listen and listen[1] != 0:
        raise (top.get("admin") or top["listen"]).fail("listen and admin have one address: give them different ports")
    teams = _teams(top.get("teams"))
    users, default_user = _users(top.get("users"), teams)
    return Config(
        listen=listen,
        admin=admin,
        trusted_proxies=tuple(NETWORK.read(entry) for entry in _list(top, "trusted_proxies")),
        nodes=_nodes([*listed, *flags]),
        queue=_section(QueueConfig, "queue", top),
        routing=_section(RoutingConfig, "routing", top),
        identity=_identity(_list(top, "identity")),
        users=users,
        default_user=default_user,
        teams=teams,
        timeouts=_section(TimeoutsConfig, "timeouts", top),
        limits=_section(LimitsConfig, "limits", top),
        health=_section(HealthConfig, "health", top),
        log=_section(LogConfig, "log", top),
    )


def config_keys() -> list[tuple[str, str, str]]:
    """Every key: its full name, its default as one writes it, and its meaning with what is allowed."""
    rows = [(name, key.default, f"{key.meaning}: {key.kind.allowed}") for name, key in TOP.items()]
    rows += [(name, default, meaning) for name, (default, meaning) in LISTS.items()]
    groups = {"nodes[]": NODE, "users.NAME": USER, "teams.TEAM": TEAM, **SECTIONS}
    for group, keys in groups.items():
        rows += [(f"{group}.{name}", key.default, f"{key.meaning}: {key.kind.allowed}") for name, key in keys.items()]
    return rows


def _every_name() -> list[str]:
    return [name for name, _, _ in config_keys()]


def _read(values: Mapping[str, Value], name: str, keys: Mapping[str, Any]) -> Any:
    """The value of a key, or its default, read by the same parser."""
    kind = keys[name].kind
    return kind.read(values[name]) if name in values else kind.parse(keys[name].default)


def _section(made: type[Section], name: str, top: Mapping[str, Value]) -> Section:
    keys = SECTIONS[name]
    values = top[name].mapping(keys, _every_name()) if name in top else {}
    return made(**{key + keys[key].kind.suffix: _read(values, key, keys) for key in keys})


def _list(top: Mapping[str, Value], name: str) -> list[Value]:
    return (top[name] if name in top else default_value(name, LISTS[name][0])).sequence()


def _identity(entries: list[Value]) -> tuple[IdentitySource, ...]:
    sources: list[IdentitySource] = []
    for entry in entries:
        source = _identity_source(entry)
        if source in sources:
            raise entry.fail("is given twice: remove one")
        sources.append(source)
    return tuple(sources)


def _identity_source(entry: Value) -> IdentitySource:
    allowed = "choose client_address, {header: NAME} or {body: user}"
    if entry.is_scalar:
        if entry.text() != "client_address":
            raise entry.fail(f"unknown source {shown(entry.text())}: {allowed}")
        return IdentitySource("client_address", "")
    named = entry.mapping(("header", "body"))
    if len(named) != 1:
        raise entry.fail(f"must be one source: {allowed}")
    kind, name = next(iter(named.items()))
    if kind == "body" and name.text() != "user":
        raise name.fail(f"{shown(name.text())} is not read from bodies: choose user")
    return IdentitySource(kind, HEADER_NAME.read(name))


def _named(value: Value | None, what: str, keys: Mapping[str, Any]) -> dict[str, dict[str, Value]]:
    """Entries by name, each with its keys. what: of whom they are the names."""
    entries = value.mapping(None) if value is not None else {}
    given = {name: entry.mapping(keys) for name, entry in entries.items()}
    for name, entry in entries.items():
        if not name.isprintable() or not 1 <= len(name) <= NAME_MAX:
            raise entry.fail(f"a {what}'s name must be 1..{NAME_MAX} printable characters")
    return given


def _teams(value: Value | None) -> Mapping[str, TeamConfig]:
    given = _named(value, "team", TEAM)
    if value is not None and "none" in given:
        raise value.fail("no team can be called none: a user without a team has that")
    if value is not None and len(given) > TEAMS_MAX:
        raise value.fail(f"has {len(given)} teams, the most there may be is {TEAMS_MAX}: leave some out")
    teams = {name: TeamConfig(**{key: _read(own, key, TEAM) for key in TEAM}) for name, own in given.items()}
    return MappingProxyType(teams)


def _users(value: Value | None, teams: Mapping[str, TeamConfig]) -> tuple[Mapping[str, UserConfig], UserConfig]:
    """What a user's own entry leaves out is the default user's."""
    given = _named(value, "user", USER)
    for own in given.values():
        if "team" in own:
            _check_team(own["team"], teams)
    default = UserConfig(**{key: _read(given.get("default", {}), key, USER) for key in USER})
    users = {
        name: UserConfig(
            **{key: USER[key].kind.read(own[key]) if key in own else getattr(default, key) for key in USER}
        )
        for name, own in given.items()
        if name != "default"
    }
    return MappingProxyType(users), default


def _check_team(value: Value, teams: Mapping[str, TeamConfig]) -> None:
    name = USER["team"].kind.read(value)
    if name is None or name in teams:
        return
    near = difflib.get_close_matches(name, teams, n=1)
    advice = f"nearest known team: {near[0]}" if near else f"known teams: {', '.join(list(teams)[:10]) or 'none'}"
    raise value.fail(f"unknown team {shown(name)}: name it under teams; {advice}")


def _nodes(entries: list[Value]) -> tuple[NodeConfig, ...]:
    nodes: list[NodeConfig] = []
    places: dict[tuple[str, str], str] = {}
    for entry in entries:
        node = _node(entry)
        for key, value in (("url", node.url), ("name", node.name)):
            if (key, value) in places:
                raise entry.fail(f"a second node of {key} {value!r}, the first is at {places[key, value]}: change one")
            places[key, value] = entry.where
        nodes.append(node)
    return tuple(nodes)


def _node(entry: Value) -> NodeConfig:
    if entry.is_scalar:
        url = URL.read(entry)
        return NodeConfig(name=_derived_name(entry, url), url=url)
    values = entry.mapping(NODE)
    if "url" not in values:
        raise entry.fail("has no url: write {url: http://HOST:PORT}")
    url = URL.read(values["url"])
    return NodeConfig(
        name=NODE_NAME.read(values["name"]) if "name" in values else _derived_name(entry, url),
        url=url,
        slots=_read(values, "slots", NODE),
        engine=_read(values, "engine", NODE),
        api_key=_node_key(values),
        paths=tuple(EXTRA_PATH.read(path) for path in values["paths"].sequence()) if "paths" in values else (),
        include_usage=_read(values, "include_usage", NODE),
    )


def _derived_name(entry: Value, url: str) -> str:
    """host:port, then the base path with dashes for slashes."""
    parts = urlsplit(url)
    port = "" if parts.port else {"http": ":80", "https": ":443"}[parts.scheme]
    try:
        return NODE_NAME.parse(parts.netloc + port + parts.path.replace("/", "-"))
    except ValueError:
        raise entry.fail(f"no name can be made of the url {shown(url)}: give the node a name") from None


def _node_key(values: Mapping[str, Value]) -> str | None:
    """The key itself or the file's content; an empty api_key is none, so that "${KEY:-}" can be left unset."""
    key, file = values.get("api_key"), values.get("api_key_file")
    if key is not None and file is not None:
        raise file.fail("the node has an api_key too: remove one")
    if key is not None:
        return API_KEY.read(key) if key.text() else None
    if file is None:
        return None
    path = file.directory / file.text()
    try:
        with path.open("rb") as stream:
            text = stream.read(KEY_FILE_MAX).decode("ascii").strip()
        return API_KEY.parse(text)
    except OSError as error:
        raise file.fail(f"{str(path)!r} can't be read: {error.strerror}") from None
    except ValueError:
        raise file.fail(f"{str(path)!r} holds no key: it must hold {API_KEY.allowed.partition(', or')[0]}") from None
