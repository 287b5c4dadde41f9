"""What aiohttp takes for its connection, when a request is not the lane's to carry.

Promise: it writes and reads the client's connection, but ends it only through the lane, which alone knows whether
something else is under way on it.
"""

from fairlead.wire.lane cimport Lane


cdef class InnerTransport:
    """An asyncio.Transport as far as aiohttp's server needs one."""

    cdef Lane lane

    def __init__(self, Lane lane not None):
        self.lane = lane

    def write(self, data):
        self.lane.inner_wrote = True
        self.lane.transport.write(data)

    def writelines(self, pieces):
        self.lane.inner_wrote = True
        self.lane.transport.writelines(pieces)

    def answered(self, bint keep):
        """aiohttp has written an answer to its end. keep: it would take another request."""
        self.lane.on_inner_answer(keep)

    def close(self):
        self.lane.on_inner_close()

    def abort(self):
        self.lane.abort()

    def is_closing(self):
        return self.lane.is_closing()

    def get_extra_info(self, name, default=None):
        return self.lane.transport.get_extra_info(name, default)

    def get_write_buffer_size(self):
        return self.lane.transport.get_write_buffer_size()

    def pause_reading(self):
        if not self.lane.inner_whole:  # what follows a request is not aiohttp's
            self.lane.transport.pause_reading()

    def resume_reading(self):
        self.lane.transport.resume_reading()
