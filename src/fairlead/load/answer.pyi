"""One HTTP/1.1 answer as it comes in, in whatever pieces."""

from typing import final

@final
class AnswerReader:
    """What the load generator reads answers with, for tests."""

    def __new__(cls) -> AnswerReader: ...
    def feed(self, data: bytes, /) -> bytes:
        """These bytes came; gives those of the body among them."""

    def end(self) -> None:
        """The connection ended."""

    @property
    def state(self) -> str:
        """``more``, ``complete``, ``broken`` (no HTTP, or more bytes than announced) or ``cut``."""

    @property
    def status(self) -> int:
        """0 until the head is there."""

    @property
    def keep_alive(self) -> bool: ...
    @property
    def event_stream(self) -> bool: ...
