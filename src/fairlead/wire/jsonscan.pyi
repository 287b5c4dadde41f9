"""The keys of a JSON object as they were written, duplicates included."""

def top_level_keys(body: bytes, /) -> list[bytes]:
    r"""The keys of the top-level object, in order, as they stand in the body: without quotes, still escaped.

    body must be JSON that a parser has accepted; for any other bytes the answer means nothing, but it is given in
    one pass, and nothing outside the body is read. A body whose first value is no object has no keys.
    A key that contains a backslash has to be decoded before it is compared: ``mod\u0065l`` is ``model``.
    """

def count_keys(body: bytes) -> int:
    """How many keys top_level_keys would give."""
