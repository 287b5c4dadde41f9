"""Strict readings of text that comes from outside.

Promise: what is accepted here means the same to every program that reads it (ASCII digits, one header of a name),
and what is shown back is one short printable line.
"""

from __future__ import annotations

from fairlead.errors import ApiError
from fairlead.wire.headers import Headers

SHOWN_MAX = 60


def shown(value: object) -> str:
    """A value as it may stand in a message or a log line; containers are only named, long text is cut."""
    if isinstance(value, str):
        return repr(value[:SHOWN_MAX]) + ("..." if len(value) > SHOWN_MAX else "")
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return str(value)
    return "a list" if isinstance(value, list) else "an object"


def digits(text: str, low: int, high: int) -> int | None:
    """The integer low..high that the text is in plain ASCII digits; None for anything else.

    int() takes signs, blanks, underscores and digits of every script, and other programs read a leading zero as
    octal: none of that is accepted.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= 15) or (text[0] == "0" and len(text) > 1):
        return None
    value = int(text)
    return value if low <= value <= high else None


def one_header(headers: Headers, key: str, name: str) -> str | None:
    """The value of the header of that name and key, or None. Given twice it is refused: two readers would not agree on
    which one counts."""
    value = headers.value(key)
    if value is not None and headers.is_repeated(key):
        raise ApiError("invalid_header", f"the header {name} is given more than once: send it once", param=name)
    return value
