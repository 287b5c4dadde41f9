"""The real llama.cpp server as a child process, on a tiny model with random weights (tiny.gguf, made by
make_tiny_model.py --hidden 64 --ff 128)."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
IS_THERE = importlib.util.find_spec("xllamacpp") is not None
WHY_NOT = "the package xllamacpp (llama.cpp's server) is not installed"
START_S = 20.0


def free_port() -> int:
    with socket.socket() as plug:
        plug.bind(("127.0.0.1", 0))
        return int(plug.getsockname()[1])


def launch(port: int, *options: str) -> subprocess.Popen[bytes]:
    """Start a server and wait until it is well."""
    command = [sys.executable, str(HERE / "llama_server.py"), str(HERE / "tiny.gguf"), "--port", str(port), *options]
    # Nothing that watches this process (a sanitizer, say) is meant for the engine.
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
                if answer.status == 200:
                    return process
        except OSError:
            if process.poll() is not None:
                break
            time.sleep(0.02)
    process.kill()
    process.wait()
    raise AssertionError(f"llama.cpp did not start on port {port} (exit code {process.returncode})")


@contextmanager
def llama(*options: str, port: int = 0) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """(port, process) of a running server; it is gone afterwards."""
    port = port or free_port()
    process = launch(port, *options)
    try:
        yield port, process
    finally:
        process.kill()
        process.wait()
