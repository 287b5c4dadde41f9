"""A server that a test scripts, in blocking Python: what a generator must notice can't be had from a good server.

``with scripted(script) as port``: ``script(peer)`` runs in a thread for every connection. Its ``Peer`` reads requests
and sends bytes; when the script returns the connection is closed. An error in a script, a failed assert too, is
raised when the block ends.
"""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

WAIT_S = 10.0


class Peer:
    """One accepted connection. number: how many came before it."""

    def __init__(self, connection: socket.socket, number: int) -> None:
        self.socket = connection
        self.number = number
        self.head = self.body = b""
        self._left = bytearray()

    def request(self) -> bytes:
        """Waits for the next request; gives the nonce in it. Raises EOFError when there is none."""
        while b"\r\n\r\n" not in self._left:
            self._more()
        head, _, self._left = self._left.partition(b"\r\n\r\n")
        self.head = bytes(head)
        match = re.search(rb"content-length: (\d+)", self.head.lower())
        length = int(match[1]) if match else 0
        while len(self._left) < length:
            self._more()
        self.body, self._left = bytes(self._left[:length]), self._left[length:]
        match = re.search(rb"bench:(\d{16}):", self.body)
        return match[1] if match else b""

    def _more(self) -> None:
        data = self.socket.recv(1 << 20)
        if not data:
            raise EOFError
        self._left += data

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self, body: bytes, status: int = 200, more: str = "") -> None:
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{more}\r\n"
        self.send(head.encode() + body)

    def good(self, nonce: bytes) -> None:
        self.answer(b'{"content":"bench:' + nonce + b': "}')

    def shut(self) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def stream(*lines: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    """An SSE answer of these events."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    events = [b"data: " + line + b"\n\n" for line in lines]
    return head + b"".join(b"%x\r\n%s\r\n" % (len(event), event) for event in events) + end


def chunk(nonce: bytes, number: int) -> bytes:
    return b'{"content":"bench:%s:%06d:%018d: "}' % (nonce, number, 1)


@contextmanager
def scripted(script: Callable[[Peer], None], family: int = socket.AF_INET) -> Iterator[int]:
    host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
    server = socket.create_server((host, 0), family=family, backlog=256)
    errors: list[BaseException] = []
    peers: list[Peer] = []
    threads: list[threading.Thread] = []

    def run(peer: Peer) -> None:
        try:
            with suppress(EOFError, OSError):  # the generator has left, or the test has ended
                script(peer)
        except BaseException as error:
            errors.append(error)
        finally:
            peer.socket.close()

    def accept() -> None:
        with suppress(OSError):  # closed: the test has ended
            while True:
                connection, _ = server.accept()
                connection.settimeout(WAIT_S)
                peers.append(Peer(connection, len(peers)))
                threads.append(threading.Thread(target=run, args=(peers[-1],)))
                threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield server.getsockname()[1]
    finally:
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)  # close alone would leave accept waiting
        server.close()
        acceptor.join()
        for peer in peers:
            with suppress(OSError):
                peer.socket.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
