"""The compiled part of ``fairlead bench``: a load generator and a node that answers it, on Linux's epoll.

Nothing of the router imports it. Both are one thread each that releases the GIL, and cost about 6 µs per request.
"""
