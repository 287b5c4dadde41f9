"""What aiohttp takes for its connection, when a request is not the lane's to carry."""

import asyncio
from typing import final

from fairlead.wire.lane import Lane

@final
class InnerTransport(asyncio.Transport):
    """An asyncio.Transport as far as aiohttp's server needs one."""

    def __init__(self, lane: Lane) -> None: ...
    def answered(self, keep: bool) -> None:
        """aiohttp has written an answer to its end. keep: it would take another request."""
