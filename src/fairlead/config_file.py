"""The configuration file as values that know their place.

Promise: whatever is wrong with a value, ``Value.fail`` says it on one line with file, line and key. Nothing is
guessed: an unknown key, a key given twice, a variable that is not set and a tag are errors.

Theory. PyYAML's loader throws line numbers away, its composer keeps them on every node. So the file is composed only,
and read top down by someone who knows what must stand where; every scalar is text until then, which also keeps YAML
from turning ``no`` into False and ``1:30`` into 90.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import yaml

from fairlead.errors import ConfigError
from fairlead.strict import shown

FLAG: Final = "--node"

_VARIABLE: Final = re.compile(r"\$\{(?:([A-Za-z_][A-Za-z0-9_]*)(:-([^}]*))?\})?")
_TEXT_TAGS: Final = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "timestamp", "value")}
_NULL_TAG: Final = "tag:yaml.org,2002:null"


class Value:
    """One value of the file: a scalar, a list or a mapping, whichever the reader asks for. key is its full path."""

    __slots__ = ("_env", "_file", "_node", "key", "where")

    def __init__(self, file: str, key: str, node: yaml.Node, env: Mapping[str, str] | None, line: int = 0) -> None:
        if not line and node.start_mark is not None:
            line = node.start_mark.line + 1
        self.key = key
        self.where = f"{file}:{line}" if line else file
        self._file = file
        self._node = node
        self._env = env

    def fail(self, what: str) -> ConfigError:
        return ConfigError(f"{self.where}: {self.key}: {what}" if self.key else f"{self.where}: {what}")

    @property
    def directory(self) -> Path:
        """Where relative paths start."""
        return Path(self._file).parent

    @property
    def is_scalar(self) -> bool:
        return isinstance(self._node, yaml.ScalarNode)

    @property
    def is_empty(self) -> bool:
        """Nothing stands behind the key (or null does)."""
        return bool(self._node.tag == _NULL_TAG)

    def text(self) -> str:
        """The scalar's text, variables replaced."""
        if self.is_empty:
            raise self.fail("has no value: give it one or remove the key")
        if not self.is_scalar:
            raise self.fail("must be a single value, not a list or a mapping")
        if self._node.tag not in _TEXT_TAGS:
            raise self.fail(f"has the YAML tag {shown(self._node.tag)}: remove it")
        text = str(self._node.value)
        env = self._env
        return text if env is None else _VARIABLE.sub(lambda match: self._variable(match, env), text)

    def _variable(self, match: re.Match[str], env: Mapping[str, str]) -> str:
        name, has_default, default = match[1], match[2], match[3]
        if name is None:
            raise self.fail("has a ${ that names no variable: write ${NAME} or ${NAME:-default}")
        value = env.get(name)
        if has_default is not None:
            return value or default
        if value is None:
            raise self.fail(f"the environment variable {name} is not set: set it or write ${{{name}:-default}}")
        return value

    def sequence(self) -> list[Value]:
        if self.is_empty:
            return []
        if not isinstance(self._node, yaml.SequenceNode):
            raise self.fail("must be a list: [a, b]")
        return [
            Value(self._file, f"{self.key}[{index}]", node, self._env) for index, node in enumerate(self._node.value)
        ]

    def mapping(self, known: Iterable[str] | None, elsewhere: Iterable[str] = ()) -> dict[str, Value]:
        """Values by key. known: the keys allowed here (None: any); elsewhere: full names to suggest besides."""
        if self.is_empty:
            return {}
        if not isinstance(self._node, yaml.MappingNode):
            raise self.fail("must be a mapping: {key: value}")
        values: dict[str, Value] = {}
        allowed = None if known is None else list(known)
        for key_node, node in self._node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self.fail("has a key that is a list or a mapping")
            name = str(key_node.value)
            line = key_node.start_mark.line + 1
            key = f"{self.key}.{name}" if self.key else name
            value = Value(self._file, key if name.isprintable() else repr(key), node, self._env, line)
            if allowed is not None and name not in allowed:
                raise value.fail(_unknown(name, allowed, elsewhere))
            if name in values:
                raise value.fail(f"is given twice, first at {values[name].where}: remove one")
            values[name] = value
        return values


def _unknown(name: str, allowed: list[str], elsewhere: Iterable[str]) -> str:
    moved = [full for full in elsewhere if full.rpartition(".")[2] == name]
    near = difflib.get_close_matches(name, allowed, n=1) or moved[:1]
    if near:
        return f"unknown key; nearest known key: {near[0]}"
    return f"unknown key; known keys: {', '.join(allowed)}"


def flag_value(text: str, index: int) -> Value:
    """A node's URL from the command line, where the shell has replaced the variables."""
    return Value(FLAG, f"nodes[{index}]", yaml.ScalarNode("tag:yaml.org,2002:str", text), None)


def default_value(key: str, text: str) -> Value:
    """A default that the schema writes as YAML."""
    return Value("default", key, _compose(text), None)


def read_file(path: Path, env: Mapping[str, str]) -> Value:
    """The file's top-level mapping. Raises ConfigError: not readable, not UTF-8, not one YAML document."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: byte {error.start} is not UTF-8: save the file as UTF-8") from None
    try:
        return Value(str(path), "", _compose(text), env, 1)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{path}:{line}: has the control character {error.character:#x}: remove it") from None
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_yaml_fault(path, text, error)) from None
    except RecursionError:
        raise ConfigError(f"{path}: is nested too deeply to be a configuration") from None


def _compose(text: str) -> yaml.Node:
    """The one document of the text; an empty one is an empty mapping."""
    return yaml.compose(text, Loader=yaml.SafeLoader) or yaml.MappingNode("tag:yaml.org,2002:map", [])


def _yaml_fault(path: Path, text: str, error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark is not None else 1
    lines = text.splitlines()
    source = lines[line - 1] if line <= len(lines) else ""
    problem = " ".join(str(error.problem or error.context).split())
    hint = ": put quotes around ${...} inside {} and []" if "${" in source else ""
    return f"{path}:{line}: not valid YAML: {problem}{hint}"
