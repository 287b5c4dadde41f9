"""A configuration as the file that would say it all: every key, defaults filled in, secrets masked.

Promise: what is printed loads again and is then the same configuration, but for the keys of nodes.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

import yaml

from fairlead.clock import MILLISECOND_NS
from fairlead.config import Config, IdentitySource, NodeConfig
from fairlead.config_schema import SECTIONS, Address

MASK: Final = "***"
_DURATIONS: Final = (("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1))
_SIZES: Final = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))
_SIZE_KEYS: Final = {("queue", "max_bytes"), ("limits", "body")}


def effective(config: Config) -> str:
    users = {"default": config.default_user, **config.users}
    document: dict[str, Any] = {
        "listen": address_text(config.listen),
        "admin": "none" if config.admin is None else address_text(config.admin),
        "trusted_proxies": [str(network) for network in config.trusted_proxies],
        "nodes": [_node(node) for node in config.nodes],
        "identity": [_source(source) for source in config.identity],
        "users": {name: asdict(user) | {"team": user.team or "none"} for name, user in users.items()},
        "teams": {name: asdict(team) for name, team in config.teams.items()},
    }
    for section, keys in SECTIONS.items():
        holder = getattr(config, section)
        document[section] = {
            key: _value(section, key, spec.kind.suffix, getattr(holder, key + spec.kind.suffix))
            for key, spec in keys.items()
        }
    return str(yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True))


def address_text(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _node(node: NodeConfig) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": node.name, "url": node.url}
    entry |= {"slots": node.slots or "auto", "engine": node.engine or "auto"}
    if node.api_key is not None:
        entry["api_key"] = MASK
    if node.paths:
        entry["paths"] = list(node.paths)
    if not node.include_usage:
        entry["include_usage"] = False
    return entry


def _source(source: IdentitySource) -> Any:
    return source.kind if source.kind == "client_address" else {source.kind: source.name}


def _value(section: str, key: str, suffix: str, value: Any) -> Any:
    if suffix == "_ns":
        return _scaled(value // MILLISECOND_NS, _DURATIONS) if value else "0s"
    return _scaled(value, _SIZES) if (section, key) in _SIZE_KEYS else value


def _scaled(value: int, units: tuple[tuple[str, int], ...]) -> Any:
    """In the largest unit in which it is whole."""
    for unit, scale in units:
        if value % scale == 0:
            return f"{value // scale}{unit}"
    return value
