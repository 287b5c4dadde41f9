"""What an answer says of its own size, read beside the relay.

Promise: bytes come out as they went in, but for what was only sent because the router asked for it: the last chunk
of a stream with nothing but ``usage``, and members ``"usage":null``. Wherever the bytes are cut, the output and the
counts are the same. Memory is bounded by EVENT_MAX for a stream and by twice TAIL_MAX for a plain answer.

Theory. A stream is cut at blank lines. An event without ``"usage"`` is only searched for content, which makes it one
token; an event with it is parsed. A plain answer is never held back: engines write ``usage`` at its end, so its tail
is enough. Changes to JSON are cuts and insertions in the bytes as they came, and each is believed only if parsing the
result gives exactly what was meant; else nothing is changed.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

import orjson

EVENT_MAX: Final = 1 << 20  # bytes; a longer event passes unread
TAIL_MAX: Final = 1 << 16  # bytes of a plain answer that are looked at
TOKENS_MAX: Final = 2**31 - 1  # what a node reports beyond that is not believed
_CANDIDATES_MAX: Final = 8  # places in a body or an event that are tried for a change

_BLANK_LINE: Final = re.compile(rb"\n\r?\n|\r\r")
_DATA: Final = re.compile(rb"(?:^|(?<=[\r\n]))data: ?([^\r\n]*)")
_USAGE: Final = b'"usage"'
_NULL_USAGE: Final = re.compile(rb'(,\s*)?"usage"\s*:\s*null(\s*,\s*)?')
_USAGE_OBJECT: Final = re.compile(rb'"usage"\s*:\s*(?=\{)')
_OPTIONS: Final = re.compile(rb'"stream_options"\s*:\s*(null|\{[^{}]*\})')
_OFF: Final = re.compile(rb'"include_usage"\s*:\s*(?:false|null)')
# A string that is not empty, under a name that generated text has in any of the protocols.
_CONTENT: Final = re.compile(
    rb'"(?:content|text|delta|reasoning_content|reasoning|thinking|refusal|arguments|partial_json)"\s*:\s*"(?!")'
)


@dataclass(slots=True)
class Usage:
    """Tokens as a node reported them; None: it did not. cached is a part of input."""

    input: int | None = None
    cached: int = 0
    output: int | None = None

    def read(self, reported: object) -> None:
        """Take over what an object ``usage`` of OpenAI's or Anthropic's shape says; what it leaves out stays."""
        if not isinstance(reported, dict):
            return
        details = reported.get("prompt_tokens_details") or reported.get("input_tokens_details")
        prompt = _count(reported.get("prompt_tokens"))
        if prompt is None:
            prompt = _count(reported.get("input_tokens"))
        if prompt is not None:
            # Anthropic counts what came from its cache, and what went into it, beside input_tokens.
            cached = _count(reported.get("cache_read_input_tokens")) or 0
            prompt += cached + (_count(reported.get("cache_creation_input_tokens")) or 0)
            if isinstance(details, dict):
                cached = _count(details.get("cached_tokens")) or cached
            self.input, self.cached = prompt, min(cached, prompt)
        output = _count(reported.get("completion_tokens"))
        if output is None:
            output = _count(reported.get("output_tokens"))
        if output is not None:
            self.output = output


def _count(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= TOKENS_MAX:
        return value
    return None


# The request ---------------------------------------------------------------------------------------


def ask(body: bytes) -> bytes | None:
    """The body of a stream request with ``stream_options.include_usage`` set; all other bytes are the client's.

    None: the client asked itself, or the body is such that it is better left alone (an engine would have to guess what
    it means, or ``continuous_usage_stats`` would show numbers that the client did not get before).
    """
    if b"stream_options" not in body and b"\\u" not in body:
        return _inserted(body)
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(fields, dict):
        return None
    if "stream_options" not in fields:
        return _inserted(body)
    options = fields["stream_options"]
    if options is not None and not isinstance(options, dict):
        return None
    options = options or {}
    if options.get("include_usage") or options.get("continuous_usage_stats"):
        return None
    wanted = fields | {"stream_options": options | {"include_usage": True}}
    for place, _ in zip(_OPTIONS.finditer(body), range(_CANDIDATES_MAX), strict=False):
        changed = body[: place.start(1)] + _switched_on(place[1]) + body[place.end(1) :]
        if _parsed(changed) == wanted:
            return changed
    return None


def _inserted(body: bytes) -> bytes:
    """A request's body is an object and not empty (it names a model), so that the comma is right."""
    start = body.index(b"{") + 1
    return b'%b"stream_options":{"include_usage":true},%b' % (body[:start], body[start:])


def _switched_on(options: bytes) -> bytes:
    if options == b"null":
        return b'{"include_usage":true}'
    if _OFF.search(options):
        return _OFF.sub(b'"include_usage":true', options)
    comma = b"" if not options[1:-1].strip() else b","
    return b'{"include_usage":true%b%b' % (comma, options[1:])


def _parsed(document: bytes) -> Any:
    try:
        return orjson.loads(document)
    except orjson.JSONDecodeError:
        return None


# The answer ----------------------------------------------------------------------------------------


class Events:
    """The reader of an event stream. strip: take out what the router alone has asked for.

    Without strip everything is given on at once; with it, an event when it is whole.
    """

    __slots__ = ("_held", "_skipping", "_strip", "tokens", "usage")

    def __init__(self, strip: bool) -> None:
        self.usage = Usage()
        self.tokens = 0  # events that brought content: one each
        self._strip = strip
        self._held = bytearray()  # the event that is not whole yet
        self._skipping = False  # it is too long; _held has its last two bytes, which were given on

    def feed(self, data: bytes) -> bytes:
        """What the client gets for these bytes, perhaps nothing yet."""
        given: list[bytes] = []
        held = self._held
        search = max(0, len(held) - 2)
        held += data
        start = 0
        while (end := _BLANK_LINE.search(held, search)) is not None:
            given.append(self._event(bytes(held[start : end.end()])))
            start = search = end.end()
        del held[:start]
        if self._skipping or len(held) > EVENT_MAX:
            given.append(self._skip())
        return b"".join(given) if self._strip else data

    def rest(self) -> bytes:
        """What the client still has to get at the end: a last event without its blank line, as it is."""
        rest = b"" if self._skipping or not self._strip else bytes(self._held)
        self._held.clear()
        return rest

    def _skip(self) -> bytes:
        """Give the long event on as far as it is there. Its last two bytes may begin a blank line: they stay, too."""
        given = bytes(self._held[2:] if self._skipping else self._held)
        self._skipping = True
        del self._held[:-2]
        return given

    def _event(self, event: bytes) -> bytes:
        """The same, without what the client did not ask for."""
        if self._skipping:
            self._skipping = False
            return event[2:]
        if len(event) > EVENT_MAX:
            return event
        if _CONTENT.search(event):
            self.tokens += 1
        if _USAGE not in event:
            return event
        data = b"\n".join(_DATA.findall(event))
        document = _parsed(data)
        if not isinstance(document, dict):
            return event
        for holder in (document, document.get("message"), document.get("response")):
            if isinstance(holder, dict):
                self.usage.read(holder.get("usage"))
        if not self._strip or "usage" not in document:
            return event
        if document["usage"] is None:
            return _without_null(event, data, document)
        return b"" if document.get("choices") == [] else event


def _without_null(event: bytes, data: bytes, document: dict[str, Any]) -> bytes:
    """The event without its member ``"usage":null``, with one of the commas beside it."""
    wanted = {name: value for name, value in document.items() if name != "usage"}
    for place, _ in zip(_NULL_USAGE.finditer(data), range(_CANDIDATES_MAX), strict=False):
        # In the middle the comma before goes and the one behind stays, with the blanks that are its own.
        end = place.start(2) if place[1] and place[2] else place.end()
        changed = data[: place.start()] + data[end:]
        if _parsed(changed) == wanted:
            return event.replace(data, changed, 1)
    return event


class Tail:
    """The reader of a plain answer, which is given on as it is."""

    __slots__ = ("_kept", "_whole", "tokens")

    def __init__(self) -> None:
        self.tokens = 0  # a plain answer has none that could be counted
        self._kept = bytearray()
        self._whole = True

    def feed(self, data: bytes) -> bytes:
        kept = self._kept
        kept += data[-TAIL_MAX:]
        if len(kept) > TAIL_MAX or len(data) > TAIL_MAX:
            self._whole = False
            # Not each time: moving the tail for every small piece would cost more than the pieces.
            if len(kept) >= 2 * TAIL_MAX:
                del kept[:-TAIL_MAX]
        return data

    def rest(self) -> bytes:
        return b""

    @property
    def usage(self) -> Usage:
        """As far as the answer is there; it is complete when the answer is."""
        usage = Usage()
        tail = bytes(self._kept[-TAIL_MAX:])
        if _USAGE not in tail:
            return usage
        if self._whole:
            document = _parsed(tail)
            if isinstance(document, dict):
                usage.read(document.get("usage"))
            return usage
        places = [place.end() for place in _USAGE_OBJECT.finditer(tail)]
        if places:
            try:
                found, _ = json.JSONDecoder().raw_decode(tail[places[-1] :].decode("utf-8", "replace"))
            except (ValueError, RecursionError):
                return usage
            usage.read(found)
        return usage
