"""Who a request belongs to: the user whose turn it takes.

Promise: every request gets exactly one user, and a client can't buy a second share by making up names: a name in a
header or body counts only when a trusted proxy says it, everybody else is the address they come from. The same name
gives the same key in every process of one seed, so that several routers mean the same user by it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from fairlead.config import Config
from fairlead.config_schema import NAME_MAX, TIERS
from fairlead.errors import ApiError
from fairlead.strict import one_header, shown

CACHED_MAX: Final = 16384


@dataclass(frozen=True, slots=True)
class User:
    """name is for people, key for the core. running_max and waiting_max: 0 = no limit. tier: see policy.tier."""

    name: str
    key: int
    weight: int
    running_max: int
    waiting_max: int
    tier: int
    team: str | None


@dataclass(frozen=True, slots=True)
class Peer:
    """A client's address as one compares it, and whether its word on who the user is counts."""

    address: str
    trusted: bool


class Identity:
    """Holds two bounded caches and nothing else; a full one is emptied, which costs some digests again."""

    def __init__(self, config: Config, seed: int = 0) -> None:
        self._config = config
        self._seed = seed.to_bytes(8, "little")
        self._users: dict[tuple[str, str], User] = {}
        self._peers: dict[str | None, Peer] = {}

    def user(self, headers: Mapping[str, str], peer_ip: str | None, body_user: str | None) -> User:
        """The first source of the configuration that names somebody; the address if none does.

        Raises ApiError: a trusted name is not 1..128 printable characters, or its header stands there twice.
        """
        peer = self._peer(peer_ip)
        for source in self._config.identity:
            if source.kind == "client_address":
                break
            if not peer.trusted:
                continue
            name = one_header(headers, source.name) if source.kind == "header" else body_user
            if name:
                return self._user("name", _checked(name, source.kind, source.name))
        return self._user("address", peer.address)

    def _user(self, kind: str, name: str) -> User:
        """A name is one user wherever it was read, but never the user of an address that looks the same."""
        user = self._users.get((kind, name))
        if user is None:
            if len(self._users) >= CACHED_MAX:
                self._users.clear()
            user = self._users[kind, name] = self._make(kind, name)
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

    def _peer(self, peer_ip: str | None) -> Peer:
        peer = self._peers.get(peer_ip)
        if peer is None:
            if len(self._peers) >= CACHED_MAX:
                self._peers.clear()
            peer = self._peers[peer_ip] = self._look_at(peer_ip)
        return peer

    def _look_at(self, peer_ip: str | None) -> Peer:
        if peer_ip is None:
            return Peer("unknown", False)  # the socket was gone before anybody asked
        address: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(peer_ip)
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return Peer(str(address), any(address in network for network in self._config.trusted_proxies))


def _checked(name: str, kind: str, source: str) -> str:
    if len(name) <= NAME_MAX and name.isprintable():
        return name
    allowed = f"a user's name must be 1..{NAME_MAX} printable characters"
    if kind == "header":
        raise ApiError("invalid_header", f"the header {source} is {shown(name)}: {allowed}", param=source)
    raise ApiError("invalid_value", f"`{source}` is {shown(name)}: {allowed}", param=source)
