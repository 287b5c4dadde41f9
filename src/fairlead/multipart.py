"""Fields of a multipart/form-data body, read where they lie.

Promise: the wanted fields' values or a 400; a bounded number of parts, and nothing copied but those values, so an
hour of audio costs one search through its bytes.

Theory. A router that reads a form more leniently than the engine behind it, or otherwise, authorises one model and has
another one run. So nothing is tolerated that two parsers could read in two ways: no preamble, no bare line feeds, no
folded headers, no second boundary or name, no escaped name, no encoded part. What clients send has none of these.
"""

from __future__ import annotations

import re
from typing import Final

from fairlead.errors import ApiError

PARTS_MAX: Final = 64
HEADERS_MAX: Final = 8192
VALUE_MAX: Final = 1024

_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_PARAMETER = rf'[ \t]*;[ \t]*({_TOKEN})=({_TOKEN}|"(?:[^"\\]|\\.)*")'
_PARAMETERS: Final = re.compile(_PARAMETER)
# Possessive, so that a long hostile header fails in one pass.
_MULTIPART: Final = re.compile(rf"multipart/form-data((?:{_PARAMETER})*+)[ \t]*", re.IGNORECASE)
_DISPOSITION: Final = re.compile(rf"form-data((?:{_PARAMETER})*+)[ \t]*", re.IGNORECASE)
_BOUNDARY: Final = re.compile(r"[A-Za-z0-9'()+_,./:=? -]{0,69}[A-Za-z0-9'()+_,./:=?-]")
_HEADER: Final = re.compile(rf"({_TOKEN}):([^\r\n]*)")


def is_multipart(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == "multipart/form-data"


def form_fields(content_type: str, body: bytes, wanted: frozenset[str]) -> dict[str, bytes]:
    """The wanted fields of the form. Raises ApiError 400: not such a form, a wanted field given twice or too long."""
    delimiter = b"--" + _boundary(content_type)
    separator = b"\r\n" + delimiter
    fields: dict[str, bytes] = {}
    if not body.startswith(delimiter):
        raise _broken("it doesn't begin with its boundary")
    at = len(delimiter)
    for _ in range(PARTS_MAX):
        if body.startswith(b"--", at):
            return fields
        if not body.startswith(b"\r\n", at):
            raise _broken("a boundary is not alone on its line")
        headers_end = body.find(b"\r\n\r\n", at, at + HEADERS_MAX)
        if headers_end < 0:
            raise _broken(f"a part has no end of its headers within {HEADERS_MAX} bytes")
        name = _field_name(body[at + 2 : headers_end].decode("latin-1"))
        start = headers_end + 4
        end = body.find(separator, start)
        if end < 0:
            raise _broken("its last boundary is missing")
        if name in wanted:
            if name in fields:
                raise ApiError("duplicate_key", f"the form has two fields {name!r}: send one", param=name)
            if end - start > VALUE_MAX:
                raise ApiError("invalid_value", f"the field {name!r} is longer than {VALUE_MAX} bytes", param=name)
            fields[name] = body[start:end]
        at = end + len(separator)
    if body.startswith(b"--", at):
        return fields
    raise _broken(f"it has more than {PARTS_MAX} parts")


def _broken(what: str) -> ApiError:
    return ApiError("invalid_value", f"the body is no multipart/form-data that can be read: {what}")


def _single(parameters: str, name: str) -> str | None:
    """The one parameter of that name, None if there is none or a second one."""
    values = [value for key, value in _PARAMETERS.findall(parameters) if key.lower() == name]
    if len(values) != 1:
        return None
    value: str = values[0]
    return value[1:-1] if value.startswith('"') else value


def _boundary(content_type: str) -> bytes:
    match = _MULTIPART.fullmatch(content_type.strip())
    boundary = match and _single(match[1], "boundary")
    if not boundary or not _BOUNDARY.fullmatch(boundary):
        message = "the header Content-Type must be multipart/form-data with one boundary of 1..70 characters"
        raise ApiError("invalid_header", message, param="Content-Type")
    return boundary.encode()


def _field_name(headers: str) -> str:
    """The name of a part from its headers (without the last line end)."""
    disposition: str | None = None
    for line in headers.split("\r\n"):
        match = _HEADER.fullmatch(line)
        if match is None:
            raise _broken("a part has a line that is no header")
        key, value = match[1].lower(), match[2].strip(" \t")
        if key == "content-disposition":
            if disposition is not None:
                raise _broken("a part has two Content-Disposition headers")
            disposition = value
        elif key == "content-transfer-encoding" and value.lower() not in ("7bit", "8bit", "binary"):
            raise _broken("a part has a Content-Transfer-Encoding, which HTTP doesn't use")
    form_data = _DISPOSITION.fullmatch(disposition or "")
    name = form_data and _single(form_data[1], "name")
    if not form_data or name is None or "\\" in name or "name*" in form_data[1].lower().replace("filename*", ""):
        raise _broken('a part needs one Content-Disposition: form-data; name="..."')
    return name
