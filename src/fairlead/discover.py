"""Engines on this machine, where they listen if nobody told them otherwise.

Promise: all ports are asked at once, the answer is there within a second, and a fairlead is never taken for a node: one
that routed to itself would pass a request round until every slot is full of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from fairlead.clock import MILLISECOND_NS
from fairlead.config import NodeConfig
from fairlead.engines import Reply, model_list
from fairlead.listener import SERVER
from fairlead.probes import Prober

HOST: Final = "127.0.0.1"
PORTS: Final[Mapping[int, str]] = {8000: "vLLM", 30000: "SGLang", 8080: "llama.cpp", 11434: "Ollama"}
TIMEOUT_NS: Final = 1000 * MILLISECOND_NS


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found at a port. url: where a node is; "" if none is."""

    port: int
    usual: str
    url: str
    what: str


async def find(ports: Mapping[int, str], skip: int | None = None) -> list[Finding]:
    """Ask every port but one, which is to be the router's own."""
    wanted = {port: usual for port, usual in ports.items() if port != skip}
    prober = Prober(TIMEOUT_NS)
    try:
        urls = [f"http://{HOST}:{port}" for port in wanted]
        asked = [prober.fetch(NodeConfig(name=url, url=url), "/v1/models") for url in urls]
        answers = await asyncio.gather(*asked)
    finally:
        await prober.close()
    found = zip(wanted.items(), urls, answers, strict=True)
    return [_judge(port, usual, url, reply, why) for (port, usual), url, (reply, why) in found]


def _judge(port: int, usual: str, url: str, reply: Reply, why: str) -> Finding:
    if reply.server == SERVER:
        return Finding(port, usual, "", "a fairlead router, which is no node")
    models = model_list(reply)
    if models is not None:
        return Finding(port, usual, url, f"serves {', '.join(sorted(models)) or 'no model yet'}")
    return Finding(port, usual, "", "nobody listens" if why == "refused" else f"no engine: {why}")
