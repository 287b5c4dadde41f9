"""Request ids: the client's own, or new ones."""

def sane_request_id(value: str | None) -> str | None:
    """The client's own id if it can stand in any log and header, else None."""

def make_request_id() -> str:
    """128 random bits in hexadecimal."""
