"""The client side of a benchmark: requests by the ten thousand from one thread, and what became of each."""

from typing import Any, final

FAULT_NAMES: tuple[str, ...]

@final
class Generator:
    """Sends ``request``, whole as it goes over the wire, on ``connections`` kept connections to address:port.

    16 digits at ``nonce_at`` are replaced by a nonce of its own in every request; 7 at ``user_at`` (-1: nowhere) by a
    number below ``users``, which goes round. address is in digits, IPv4 or IPv6.

    rate 0: a connection asks again when its answer is there. rate > 0: so many requests per second, at exponential
    intervals drawn from ``seed``, whatever becomes of them; latency counts from when a request was due.

    stream: answers are SSE. echo: an answer must repeat ``bench:NONCE``, as our node's do, and a stream must number
    its chunks and end with [DONE]. length: an answer must have so many bytes of body, or a stream so many chunks;
    0: any. timeout_ns: longest time from the send to the end of an answer.

    Raises ValueError (out of range), OSError (no descriptors), MemoryError. One thread at a time.
    """

    def __new__(
        cls,
        address: str,
        port: int,
        request: bytes,
        *,
        nonce_at: int,
        user_at: int = -1,
        users: int = 1,
        connections: int = 1,
        rate: float = 0.0,
        stream: bool = False,
        echo: bool = False,
        length: int = 0,
        timeout_ns: int = 60_000_000_000,
        seed: int = 1,
    ) -> Generator: ...
    def run(self, seconds: float) -> None:
        """Connect where there is no connection, and go on asking. What is under way afterwards stays under way.

        ValueError (out of range, or after close); KeyboardInterrupt as ever.
        """

    def finish(self, seconds: float) -> int:
        """Ask no more, and wait for the answers that are still due; gives how many did not come in time."""

    def counts(self) -> dict[str, Any]:
        """Since the last reset: ``good`` requests, ``faults`` by name (``refused`` counts attempts to
        connect) and ``statuses`` of all answers, ``chunks``,
        ``bytes`` received, ``connects``, ``stale`` (requests sent again, because the far end had closed the
        connection), ``arrivals`` and ``missed`` (open loop: due, and due when too many were waiting already).
        ``length``: of the last good answer.

        ``latency`` (due to end), ``first`` (streams: due to first chunk), ``gap`` (between two chunks), ``transit``
        (a chunk of our node: its send to our receive) and ``lag`` (due to sent, where a connection was free) are
        lists of (ns, count), smallest first, each within 1 %.

        Now: ``busy`` connections, ``flowing`` streams, ``unsent`` requests that are due and have no connection.
        """

    def reset(self) -> None:
        """Count from zero. Requests under way go on, and count when they end."""

    def close(self) -> None:
        """Close every connection. It can't be used again."""
