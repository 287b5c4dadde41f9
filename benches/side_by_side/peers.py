"""The routers that fairlead is compared with: where they are, which version, and how they are started.

Each is set up as its makers would for speed: one worker, keep-alive to the nodes, no access log, no buffering of
streams, limits out of the way. Nothing is installed here; what is missing is told, and how to get it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from string import Template

from fairlead.bench_machine import free_port, program
from fairlead.bench_run import fairlead_router
from fairlead.bench_turns import Place, Router

HERE = Path(__file__).resolve().parent
LITELLM_KEY = "sk-side-by-side"
VERSION_S = 60.0


@dataclass(frozen=True, slots=True)
class Missing:
    """A peer that is not on this machine."""

    name: str
    remedy: str


def filled(template: str, place: Place, servers: str) -> Path:
    """A configuration, written into the router's directory."""
    text = Template((HERE / template).read_text()).substitute(
        port=place.port, servers=servers, connections=place.connections_max, files=2 * place.connections_max + 100
    )
    path = place.directory / template
    path.write_text(text)
    return path


def urls(place: Place) -> list[str]:
    return [f"http://127.0.0.1:{port}" for port in place.nodes]


def nginx(found: str, place: Place) -> list[str]:
    servers = " ".join(f"server 127.0.0.1:{port};" for port in place.nodes)
    return [found, "-p", str(place.directory), "-c", str(filled("nginx.conf", place, servers)), "-e", "stderr"]


def haproxy(found: str, place: Place) -> list[str]:
    servers = "\n".join(f"    server node{port} 127.0.0.1:{port}" for port in place.nodes)
    return [found, "-db", "-f", str(filled("haproxy.cfg", place, servers))]


def vllm_router(found: str, place: Place) -> list[str]:
    return [
        *(found, "--host", "127.0.0.1", "--port", str(place.port), "--worker-urls", *urls(place)),
        *("--policy", "power_of_two", "--max-concurrent-requests", str(place.connections_max)),
        *("--queue-size", str(place.connections_max), "--log-level", "error"),
        *("--prometheus-port", str(free_port())),
    ]


def sglang_router(found: str, place: Place) -> list[str]:
    """vllm-router is a fork of it."""
    return [found, "launch", *vllm_router(found, place)[1:]]


def litellm(found: str, place: Place) -> list[str]:
    entry = "  - {{model_name: {0}, litellm_params: {{model: openai/{0}, api_base: '{1}/v1', api_key: none}}}}"
    servers = "\n".join(entry.format(place.model, url) for url in urls(place))
    path = filled("litellm.yaml", place, servers)
    return [found, "--config", str(path), "--host", "127.0.0.1", "--port", str(place.port), "--num_workers", "1"]


def aiohttp_proxy(found: str, place: Place) -> list[str]:
    return [found, str(HERE / "aiohttp_proxy.py"), str(place.port), *map(str, place.nodes)]


@dataclass(frozen=True, slots=True)
class Peer:
    """program: what is looked for; told: arguments that make it tell its version (none: as its package has it)."""

    program: str
    told: tuple[str, ...]
    start: Callable[[str, Place], list[str]]
    remedy: str
    environment: tuple[tuple[str, str], ...] = ()
    headers: tuple[str, ...] = ()

    def router(self, name: str, folder: Path | None) -> Router | Missing:
        found = program(self.program, folder)
        if found is None:
            return Missing(name, self.remedy)
        known = version_of([found, *self.told]) if self.told else package_version(found, name)
        start = self.start
        return Router(name, known, lambda place: start(found, place), dict(self.environment), self.headers)


def version_of(command: list[str]) -> str:
    said = subprocess.run(command, capture_output=True, text=True, timeout=VERSION_S, check=False)
    match = re.search(r"\d+\.\d+\.\d+", said.stdout + said.stderr)
    return match[0] if match else "?"


def package_version(found: str, name: str) -> str:
    """As the interpreter beside the program knows it."""
    script = f"from importlib.metadata import version; print(version({name!r}))"
    return version_of([str(Path(found).parent / "python"), "-c", script])


VENV = "python3 -m venv PEERS && PEERS/bin/pip install {}, then --peers-venv PEERS"
PEERS = {
    "nginx": Peer("nginx", ("-v",), nginx, "apt-get install nginx-light"),
    "haproxy": Peer("haproxy", ("-v",), haproxy, "apt-get install haproxy"),
    "vllm-router": Peer("vllm-router", (), vllm_router, VENV.format("vllm-router")),
    "sglang-router": Peer("sglang-router", (), sglang_router, VENV.format("sglang-router")),
    "litellm": Peer(
        "litellm",
        (),
        litellm,
        VENV.format("'litellm[proxy]'"),
        (("LITELLM_LOCAL_MODEL_COST_MAP", "True"), ("LITELLM_LOG", "ERROR"), ("NO_DOCS", "True")),
        (f"Authorization: Bearer {LITELLM_KEY}",),
    ),
}


def find(names: Iterable[str], folder: Path | None) -> list[Router | Missing]:
    """In this order; names of ALL."""
    found: list[Router | Missing] = []
    for name in names:
        if name == "fairlead":
            found.append(fairlead_router())
        elif name == "aiohttp":
            known = version("aiohttp")
            found.append(Router("aiohttp", known, lambda place: aiohttp_proxy(sys.executable, place)))
        else:
            found.append(PEERS[name].router(name, folder))
    return found


ALL = ("fairlead", "nginx", "haproxy", "vllm-router", "sglang-router", "aiohttp", "litellm")
