"""From facts to numbers: what a request costs, how long it may take, and what to tell a client that has to wait.

Promise: pure functions, and under ``token_wfq`` one price list. The core knows
flow 7, weight 3, cost 120; why it is 3 and 120 is decided here.

Theory of ``token_wfq``. A request is charged an estimate when it is queued and the price of what it was when it ends.
Only the ratio of costs matters to the core, which takes integers: they are thousandths of what one token of price 1
costs, so that prices with three decimals stay exact. At the core's COST_MAX a cost stands still: with the default
prices that is beyond two million tokens in one request.

Of a user of whom nothing is known little is expected. Too low an estimate favours its user by what its running
requests really cost, no more; too high a one moves virtual time ahead by what never was, and whoever comes then waits
until that has been served.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from fairlead.clock import MILLISECOND_NS
from fairlead.config import Config
from fairlead.config_schema import TIERS
from fairlead.errors import ApiError
from fairlead.identity import User
from fairlead.inspection import Facts
from fairlead.strict import digits, one_header, shown
from fairlead.usage import Events, Habit, Habits, Tail, ask
from fairlead.wire.headers import Headers, key_of

REQUEST_ID: Final = "X-Request-Id"
REQUEST_TIMEOUT: Final = "X-Request-Timeout-Ms"
QUEUE_TIMEOUT: Final = "X-Queue-Timeout-Ms"
PRIORITY: Final = "X-Priority"
_REQUEST_TIMEOUT_KEY: Final = key_of(REQUEST_TIMEOUT)
_QUEUE_TIMEOUT_KEY: Final = key_of(QUEUE_TIMEOUT)
_PRIORITY_KEY: Final = key_of(PRIORITY)
TIMEOUT_MAX_MS: Final = 86_400_000
_UNSET: Final = -1

FIFO: Final = "fifo"
TOKEN_POLICY: Final = "token_wfq"
WEIGHTED: Final = ("wfq", TOKEN_POLICY)  # only these give users and teams different shares
PRICES: Final = ("input", "cached_input", "output")
COST_UNIT: Final = 1000  # what the core is told for one token of price 1
COST_MAX: Final = 2**31 - 1  # the core's
INPUT_MAX: Final = 1 << 20  # tokens; an estimate claims no more, whatever the size of the body
OUTPUT_START: Final = 16.0  # tokens per sequence of a user of whom nothing is known
USERS_MAX: Final = 10_000
_BYTES_PER_TOKEN: Final = 4
_ANSWERS_MAX: Final = 5  # a user's running mean is that of so many; then each new one counts a fifth
_NOTHING: Final = (0, OUTPUT_START)
# Where an engine can be asked for the usage of a stream.
_ASKED_PATHS: Final = frozenset(("/v1/chat/completions", "/v1/completions"))
_COUNTED_PATHS: Final = _ASKED_PATHS | {"/v1/responses", "/v1/messages"}
_NO_OUTPUT_PATHS: Final = frozenset(
    ("/v1/embeddings", "/v1/rerank", "/v1/score", "/tokenize", "/detokenize", "/v1/messages/count_tokens")
)


def cost_unit(policy: str) -> int:
    """The core's cost of what a person counts as one: a sequence, or a token of price 1."""
    return COST_UNIT if policy == TOKEN_POLICY else 1


class Terms:
    """What a request is given of what its headers ask for (ApiError 400 if they ask for what there is not) and of what
    its user has, by the configuration."""

    def __init__(self, config: Config) -> None:
        self._total_ns = config.timeouts.total_ns
        self._queue_ns = config.queue.timeout_ns
        self._weighted = config.queue.policy in WEIGHTED

    def deadlines(self, headers: Headers, now_ns: int) -> tuple[int, bool, int]:
        """(queue deadline, never wait, total deadline).

        Never wait (X-Queue-Timeout-Ms: 0): the request is refused if it can't start at once; its queue deadline is
        then what it would be without that header, so that it is not expired before anybody looks.
        """
        total_ns = self._total_ns
        total_ms = _milliseconds(headers, _REQUEST_TIMEOUT_KEY, REQUEST_TIMEOUT, 1)
        queue_ms = _milliseconds(headers, _QUEUE_TIMEOUT_KEY, QUEUE_TIMEOUT, 0)
        if total_ms != _UNSET:
            total_ns = min(total_ns, total_ms * MILLISECOND_NS)
        queue_ns = min(self._queue_ns, total_ns)
        if queue_ms > 0:
            queue_ns = min(queue_ns, queue_ms * MILLISECOND_NS)
        return now_ns + queue_ns, queue_ms == 0, now_ns + total_ns

    def tier(self, headers: Headers, user: User) -> int:
        """0 is the highest: the one asked for, unless it is above the user's own."""
        text = one_header(headers, _PRIORITY_KEY, PRIORITY)
        if text is None:
            return user.tier
        if text not in TIERS:
            message = f"the header {PRIORITY} is {shown(text)}: it must be {', '.join(TIERS[:-1])} or {TIERS[-1]}"
            raise ApiError("invalid_header", message, param=PRIORITY)
        return max(TIERS.index(text), user.tier)

    def weight(self, user: User) -> int:
        """The user's, for the core."""
        return user.weight if self._weighted else 1


def _milliseconds(headers: Headers, key: str, name: str, low: int) -> int:
    text = one_header(headers, key, name)
    if text is None:
        return _UNSET
    value = digits(text, low, TIMEOUT_MAX_MS)
    if value is None:
        message = f"the header {name} is {shown(text)}: it must be an integer {low}..{TIMEOUT_MAX_MS} (milliseconds)"
        raise ApiError("invalid_header", message, param=name)
    return value


class TokenPrices:
    """The price list of ``token_wfq``, and what it knows of the length of each user's answers (the last USERS_MAX)."""

    __slots__ = ("_means", "_prices")

    def __init__(self, prices: Mapping[str, float]) -> None:
        self._prices = tuple(round(prices[name] * COST_UNIT) for name in PRICES)
        # By user, the least recently seen first: answers that count, and their mean.
        self._means: OrderedDict[int, tuple[int, float]] = OrderedDict()

    def bill(self, user: int, facts: Facts, context: int | None = None) -> Bill:
        """The bill of a new request of that user (the core's number). context: tokens that fit into the model, if
        known."""
        return Bill(self, user, facts, context)

    def price(self, fresh: int, cached: int, output: int) -> int:
        """The cost of that many tokens, for the core: 0..COST_MAX."""
        counts = (fresh, cached, output)
        return min(sum(count * price for count, price in zip(counts, self._prices, strict=True)), COST_MAX)

    def expected_output(self, user: int) -> float:
        """Tokens per sequence."""
        return self._means.get(user, _NOTHING)[1]

    def learn(self, user: int, output: float) -> None:
        """An answer of the user had so many tokens per sequence."""
        answers, mean = self._means.get(user, _NOTHING)
        answers = min(answers + 1, _ANSWERS_MAX)
        self._means[user] = answers, mean + (output - mean) / answers
        self._means.move_to_end(user)
        if len(self._means) > USERS_MAX:
            self._means.popitem(last=False)


class Reading:
    """What one request and its answer say of their tokens, where these are not what it is charged.

    estimate is what it is charged: its sequences. input, cached and output are tokens, None where not known; by, once
    settled, says what the output was read from: "usage", "events", or neither ("estimate").
    """

    __slots__ = (
        "_facts",
        "_habit",
        "_reader",
        "_status",
        "_text_tokens",
        "_unasked",
        "by",
        "cached",
        "estimate",
        "input",
        "max_tokens",
        "output",
    )

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._text_tokens = min(-(-facts.text_bytes // _BYTES_PER_TOKEN), INPUT_MAX)  # an estimate of the input
        self._habit = Habit()
        self._unasked = False
        self._reader: Events | Tail | None = None
        self._status = 0
        self.max_tokens = facts.max_tokens
        self.input: int | None = None
        self.cached: int | None = None
        self.output: int | None = None
        self.by = ""
        self.estimate = facts.width

    def request_body(self, body: bytes, habits: Habits) -> bytes:
        """The body as the node that has those habits gets it."""
        self._habit = habits.of(self._facts.path, self._facts.model)
        return body

    def on_head(self, status: int, event_stream: bool, has_length: bool) -> None:
        """The node's answer begins. has_length: it is promised to have so many bytes, so none are taken out."""
        self._status = status
        self._reader = Events(strip=False) if event_stream else Tail()

    def feed(self, data: bytes) -> bytes:
        """What of the node's bytes the client gets now."""
        return data if self._reader is None else self._reader.feed(data)

    def rest(self) -> bytes:
        """What the client gets after the node's last byte."""
        return b"" if self._reader is None else self._reader.rest()

    def unsent(self) -> int:
        """What it costs if it ends before its node has got it."""
        return self.estimate

    def settle(self, whole: bool) -> int:
        """What it costs, now that its node has got it. whole: the answer has come to its end."""
        self._count(whole)
        return self.estimate

    def _count(self, whole: bool) -> None:
        """An error of the node is input alone, a part of a stream input and what came."""
        reader, facts = self._reader, self._facts
        generates = facts.path not in _NO_OUTPUT_PATHS
        self.input, self.cached, self.by = self._text_tokens, 0, "estimate"
        if self._status >= 400 or not generates:
            self.output = 0
        if self._status >= 400:
            return
        counted = facts.stream and facts.path in _COUNTED_PATHS and not isinstance(reader, Tail)
        events = 0
        told: int | None = None
        if reader is not None:
            usage = reader.usage
            events = reader.events if isinstance(reader, Events) else 0
            told = usage.output if generates or usage.input is None else usage.output or 0
            if told is not None and facts.width > 1:
                # Of several sequences an engine may report one: a stream has shown the others, too.
                told = max(events, told * facts.width if self._habit.per_choice and not events else told)
            if usage.input is not None:
                self.input, self.cached = usage.input, usage.cached
        if whole and isinstance(reader, Events):
            self._habit.learn(reader, told, self._unasked)
        if whole and told is not None:
            self.by, self.output = "usage", told
        elif counted or events:
            # A count that was told on the way may be the older one.
            self.by, self.output = "events", max(self._habit.tokens_in(events), told or 0)


class Bill(Reading):
    """What one request costs under ``token_wfq``, from its estimate to what it was.

    estimate is for the core; where the output can't be seen, it stands.
    """

    __slots__ = ("_asked", "_prices", "_user")

    def __init__(self, prices: TokenPrices, user: int, facts: Facts, context: int | None = None) -> None:
        super().__init__(facts)
        self._prices = prices
        self._user = user
        output = 0
        if facts.path not in _NO_OUTPUT_PATHS:
            expected = round(prices.expected_output(user))
            limited = expected if facts.max_tokens is None else min(expected, facts.max_tokens)
            if context is not None:
                # How many of the sequences are prompts of their own is not known: at most all of them.
                self._text_tokens = min(self._text_tokens, context * facts.width)
                limited = min(limited, context - self._text_tokens // facts.width)
            output = limited * facts.width
        self._asked = False
        # At least 1: who waits for nothing but free requests would never lose his turn.
        self.estimate = max(1, prices.price(self._text_tokens, 0, output))

    def request_body(self, body: bytes, habits: Habits) -> bytes:
        """The body as the node that has those habits gets it: it asks for the usage of a stream where it must."""
        facts = self._facts
        habit = self._habit = habits.of(facts.path, facts.model)
        changed = ask(body) if facts.stream and facts.path in _ASKED_PATHS else None
        self._asked = changed is not None and habit.asks
        self._unasked = changed is not None and not habit.asks
        return changed if changed is not None and habit.asks else body

    def on_head(self, status: int, event_stream: bool, has_length: bool) -> None:
        super().on_head(status, event_stream, has_length)
        if event_stream:
            self._reader = Events(self._asked and not has_length, self._habit.nulls)

    def unsent(self) -> int:
        return 0

    def settle(self, whole: bool) -> int:
        """The price of what the node, which has got the request, did."""
        self._count(whole)
        facts = self._facts
        assert self.input is not None and self.cached is not None
        if self._status < 400:
            if self.by == "estimate":
                return self.estimate
            if facts.path not in _NO_OUTPUT_PATHS and (whole or self.output):
                # Who left before the first token has shown no length.
                self._prices.learn(self._user, (self.output or 0) / facts.width)
        return self._prices.price(self.input - self.cached, self.cached, self.output or 0)
