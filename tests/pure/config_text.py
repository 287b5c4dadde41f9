"""A configuration as a text, and what is said about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fairlead.config import Config, load
from fairlead.errors import ConfigError

NODES = "nodes: [http://127.0.0.1:9000]\n"


def read(file: Path, text: str, *, nodes: list[str] | None = None, **env: str) -> Config:
    file.write_text(text, encoding="utf-8")
    return load(file, nodes=nodes or [], env=env)


def fault(file: Path, text: str, **options: Any) -> str:
    """The message without the directory; it is always one line."""
    with pytest.raises(ConfigError) as caught:
        read(file, text, **options)
    message = str(caught.value)
    assert message.isprintable()
    assert message.startswith((str(file), "--node: "))
    return message.replace(str(file), "f.yaml")
