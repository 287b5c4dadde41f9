"""Who a request belongs to: the user whose turn it takes.

Promise: every request gets exactly one user, and a client can't buy a second share by making up names: a name in a
header or body counts only when a trusted proxy says it, everybody else is the address they come from. The same name
gives the same key in every process of one seed, so that several routers mean the same user by it.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from fairlead.config import Config
from fairlead.config_schema import NAME_MAX, TIERS
from fairlead.errors import ApiError
from fairlead.strict import one_header, shown
from fairlead.wire.headers import Headers, key_of

CACHED_MAX: Final = 16384


@dataclass(frozen=True)
class User:
    """name is for people, key for the core. running_max and waiting_max: 0 = no limit. tier: see policy.tier."""

    name: str
    key: int
    weight: int
    running_max: int
    waiting_max: int
    tier: int
    team: str | None


@dataclass(frozen=True)
class Peer:
    """A client's address: the user that it is, and whether its word on who the user is counts."""

    user: User
    trusted: bool


@dataclass(frozen=True)
class Source:
    """Where a trusted proxy may name the user: in the header of that name and key, or in the body if key is empty."""

    key: str
    name: str


class Identity:
    """Holds two bounded caches and nothing else; a full one is emptied, which costs some digests again."""

    def __init__(self, config: Config, seed: int = 0) -> None:
        self._config = config
        self._seed = seed.to_bytes(8, "little")
        self._sources: list[Source] = []  # in order, up to the address, which always names somebody
        for source in config.identity:
            if source.kind == "client_address":
                break
            self._sources.append(Source(key_of(source.name) if source.kind == "header" else "", source.name))
        self._named: dict[str, User] = {}
        self._peers: dict[str | None, Peer] = {}

    def user(self, headers: Headers, peer_ip: str | None, body_user: str | None) -> User:
        """The first source of the configuration that names somebody; the address if none does.

        Raises ApiError: a trusted name is not 1..128 printable characters, or its header stands there twice.
        """
        peer = self._peers.get(peer_ip)
        if peer is None:
            peer = self._look_at(peer_ip)
        if peer.trusted:
            for source in self._sources:
                name = one_header(headers, source.key, source.name) if source.key else body_user
                if name:
                    return self._named.get(name) or self._name(name, source)
        return peer.user

    def _name(self, name: str, source: Source) -> User:
        """A name is one user wherever it was read, but never the user of an address that looks the same."""
        _check(name, source)
        if len(self._named) >= CACHED_MAX:
            self._named.clear()
        user = self._named[name] = self._make("name", name)
        return user

    def _make(self, kind: str, name: str) -> User:
        config = self._config
        limits = config.users.get(name, config.default_user)
        digest = blake2b(f"{kind}\0{name}".encode(), digest_size=8, key=self._seed).digest()
        return User(
            name=name,
            key=int.from_bytes(digest, "little"),
            weight=limits.weight,
            running_max=limits.max_in_flight,
            waiting_max=config.queue.max_waiting_per_user,
            tier=TIERS.index(limits.priority),
            team=limits.team,
        )

    def _look_at(self, peer_ip: str | None) -> Peer:
        text, trusted = "unknown", False  # None: the socket was gone before anybody asked
        if peer_ip is not None:
            address: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(peer_ip)
            if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
                address = address.ipv4_mapped
            text, trusted = str(address), any(address in network for network in self._config.trusted_proxies)
        if len(self._peers) >= CACHED_MAX:
            self._peers.clear()
        peer = self._peers[peer_ip] = Peer(self._make("address", text), trusted)
        return peer


def _check(name: str, source: Source) -> None:
    if len(name) <= NAME_MAX and name.isprintable():
        return
    allowed = f"a user's name must be 1..{NAME_MAX} printable characters"
    if source.key:
        raise ApiError("invalid_header", f"the header {source.name} is {shown(name)}: {allowed}", param=source.name)
    raise ApiError("invalid_value", f"`{source.name}` is {shown(name)}: {allowed}", param=source.name)
