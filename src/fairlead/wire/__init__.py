"""The compiled part that reads bytes of the wire. It does no I/O.

``jsonscan`` finds the keys of a JSON object without building it, because a parsed object no longer tells that one
of its keys stood there twice.
"""
