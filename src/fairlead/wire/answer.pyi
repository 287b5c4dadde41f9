"""An answer on its way to a client: its head, its framing, and as few writes as can be."""

def server_timing(queue_ns: int, connect_ns: int, first_byte_ns: int) -> bytes:
    """The line that tells milliseconds, as browsers' tools read them."""
