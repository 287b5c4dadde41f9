"""fairlead: an inference router that keeps requests waiting, fairly, until a node has room."""

from fairlead._version import __version__

__all__ = ["__version__"]
