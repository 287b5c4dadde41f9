"""The compiled core: a fair queue, a deadline heap and a node table over C arrays. It does no I/O.

``scheduler.Scheduler`` is the whole of it; ``heap.IndexedHeap`` is its heap, for the driver's own timers.
"""
