"""What an answer says of its own size, read beside the relay.

Promise: bytes come out as they went in, but for what was only sent because the router asked for it: the last chunk
of a stream with nothing but ``usage``, and members ``"usage":null``. Wherever the bytes are cut, the output and the
counts are the same. Memory is bounded by EVENT_MAX for a stream and by twice TAIL_MAX for a plain answer.

What an engine sends without being asked can't be told from what asking brought, so each is left unasked until one of
its streams has shown it (``Habit``). Who tells of its own accord is never asked (llama.cpp: ``timings``), and nulls
that come anyway (SGLang) stay.

Theory. A stream is cut at blank lines. An event is searched for content, and parsed only if it may tell of usage. A
plain answer is never held back: engines write ``usage`` at its end, so its tail is enough. Changes to JSON are cuts
and insertions in the bytes as they came, and each is believed only if parsing the result gives exactly what was
meant; else nothing is changed.
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
HABITS_MAX: Final = 1024  # paths and models of one node
PER_EVENT_MAX: Final = 32  # tokens that one event is believed to bring
_CANDIDATES_MAX: Final = 8  # places in a body or an event that are tried for a change
_EVENTS_KEPT: Final = 1 << 16  # events by which tokens per event are known; beyond, older ones count half

_BLANK_LINE: Final = re.compile(rb"\n\r?\n|\r\r")
_DATA: Final = re.compile(rb"(?:^|(?<=[\r\n]))data: ?([^\r\n]*)")
_USAGE: Final = b'"usage"'
_TOLD: Final = re.compile(rb'"(?:usage|timings)"')
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

    def read_timings(self, reported: object) -> None:
        """The same from llama.cpp's ``timings``, which end its streams whether usage was asked for or not."""
        if isinstance(reported, dict):
            fresh, cached = _count(reported.get("prompt_n")), _count(reported.get("cache_n")) or 0
            if fresh is not None:
                self.input, self.cached = fresh + cached, cached
            self.output = _count(reported.get("predicted_n"))


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
    """The reader of an event stream. strip: take out what the router alone has asked for, but leave nulls if
    keep_nulls.

    Without strip everything is given on at once; with it, an event when it is whole.
    """

    __slots__ = ("_held", "_keep_nulls", "_skipping", "_strip", "events", "nulls", "usage")

    def __init__(self, strip: bool, keep_nulls: bool = False) -> None:
        self.usage = Usage()
        self.events = 0  # that brought content
        self.nulls = False  # a member "usage":null was there
        self._strip = strip
        self._keep_nulls = keep_nulls
        self._held = bytearray()  # the event that is not whole yet
        self._skipping = False  # it is too long; _held has its last two bytes, which were given on

    def feed(self, data: bytes) -> bytes:
        """What the client gets for these bytes, perhaps nothing yet."""
        held = self._held
        if not held and data.endswith(b"\n\n") and data.find(b"\n\n") == len(data) - 2 and b"\r" not in data:
            event = self._event(data)  # as engines mostly send them: one, and whole
            return event if self._strip else data
        given: list[bytes] = []
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
            self.events += 1
        if _TOLD.search(event) is None:
            return event
        data = b"\n".join(_DATA.findall(event))
        document = _parsed(data)
        if not isinstance(document, dict):
            return event
        for holder in (document, document.get("message"), document.get("response")):
            if isinstance(holder, dict):
                self.usage.read(holder.get("usage"))
        if "usage" not in document:
            self.usage.read_timings(document.get("timings"))
            return event
        if document["usage"] is None:
            self.nulls = True
            return _without_null(event, data, document) if self._strip and not self._keep_nulls else event
        return b"" if self._strip and document.get("choices") == [] else event


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

    __slots__ = ("_kept", "_whole")

    def __init__(self) -> None:
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


# The engine ----------------------------------------------------------------------------------------


class Habit:
    """What one engine's answers on one path with one model are like, learned from streams that came to their end.

    asks: it tells the usage of a stream only if it is asked; False until that was seen. nulls: it sends
    ``"usage":null`` without being asked. per_choice: of several choices it reports the usage of one.
    """

    __slots__ = ("_events", "_may_ask", "_tokens", "asks", "nulls", "per_choice")

    def __init__(self, may_ask: bool = True, per_choice: bool = False) -> None:
        self.asks = self.nulls = False
        self.per_choice = per_choice
        self._may_ask = may_ask
        self._events = self._tokens = 0

    def learn(self, stream: Events, output: int | None, unasked: bool) -> None:
        """A stream is over. output: its tokens as the engine told them; unasked: it was not asked and could be."""
        if not stream.events:
            return
        if unasked:
            self.asks, self.nulls = self._may_ask and output is None, stream.nulls
        if output is None:
            return
        # By events and not by streams, and up to a limit, so that few odd answers do not make others pay.
        self._events += stream.events
        self._tokens += min(max(output, stream.events), PER_EVENT_MAX * stream.events)
        if self._events > _EVENTS_KEPT:
            self._events, self._tokens = self._events // 2, self._tokens // 2

    def tokens_in(self, events: int) -> int:
        """What so many events of an answer that was left early will have been in tokens: each brings one, or several
        (vLLM's --stream-interval, drafts that were accepted)."""
        return -(-events * self._tokens // self._events) if self._events else events


class Habits:
    """Those of one node's engine. may_ask: it may be asked for the usage of streams; per_choice: see Habit."""

    __slots__ = ("_kept", "_may_ask", "_per_choice")

    def __init__(self, may_ask: bool = True, per_choice: bool = False) -> None:
        self._may_ask, self._per_choice = may_ask, per_choice
        self._kept: dict[tuple[str, str], Habit] = {}

    def of(self, path: str, model: str) -> Habit:
        """The same object each time, unless more than HABITS_MAX others came between."""
        habit = self._kept.get((path, model))
        if habit is None:
            if len(self._kept) == HABITS_MAX:
                del self._kept[next(iter(self._kept))]
            habit = self._kept[path, model] = Habit(self._may_ask, self._per_choice)
        return habit
