"""A TCP transfer of pseudo-random data, and its checksum at both ends."""

import hashlib
import socket

from udp import family_of

CHUNK = 65536


def contents(size):
    """Deterministic bytes that repeat nowhere near: a chunk lost, repeated or swapped changes the checksum."""
    for position in range(0, size, CHUNK):
        block = hashlib.shake_128(position.to_bytes(8, "big")).digest(1024)
        yield (block * (CHUNK // len(block)))[: size - position]


class Serve:
    """Listens, and sends the contents once to the first who connects."""

    def __init__(self, loop, port, size, address="0.0.0.0"):  # noqa: S104 -- a host of the lab
        self._loop, self._size = loop, size
        self._listener = socket.socket(family_of(address), socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((address, port))
        self._listener.listen(1)
        self._connection = None
        self._left = b""
        self._digest = hashlib.sha256()
        self._sent = 0
        loop.watch(self._listener.fileno(), self._accept)

    def _accept(self):
        self._connection, _peer = self._listener.accept()
        self._connection.setblocking(False)
        self._loop.forget(self._listener.fileno())
        self._chunks = contents(self._size)
        self._loop.watch(self._connection.fileno(), self._write, writable=True)

    def _write(self):
        if not self._left:
            self._left = next(self._chunks, b"")
            self._digest.update(self._left)
        if not self._left:
            self._loop.forget(self._connection.fileno())
            self._connection.shutdown(socket.SHUT_WR)
            return
        try:
            written = self._connection.send(self._left)
        except BlockingIOError:
            return
        self._sent += written
        self._left = self._left[written:]

    def report(self):
        """Bytes written and the checksum of the chunks begun."""
        return {"bytes": self._sent, "sha256": self._digest.hexdigest()}

    def close(self):
        """Close; returns the final report."""
        for sock in (self._listener, self._connection):
            if sock is not None and sock.fileno() >= 0:
                self._loop.forget(sock.fileno())
                sock.close()
        return self.report()


class Fetch:
    """Connects, reads to the end."""

    def __init__(self, loop, source, destination, port):
        self._loop = loop
        self._socket = socket.socket(family_of(destination), socket.SOCK_STREAM)
        self._socket.bind((source, 0))
        self._socket.settimeout(20)
        self._socket.connect((destination, port))
        self._socket.setblocking(False)
        self._digest = hashlib.sha256()
        self._bytes, self._done, self._error = 0, False, None
        loop.watch(self._socket.fileno(), self._read)

    def _read(self):
        try:
            data = self._socket.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError as error:
            data, self._error = b"", str(error)
        self._digest.update(data)
        self._bytes += len(data)
        if not data:
            self._done = True
            self._loop.forget(self._socket.fileno())

    def report(self):
        """Bytes read so far, whether it ended, with which error, and the checksum."""
        return {
            "bytes": self._bytes,
            "done": self._done,
            "error": self._error,
            "sha256": self._digest.hexdigest(),
        }

    def close(self):
        """Close; returns the final report."""
        self._loop.forget(self._socket.fileno())
        self._socket.close()
        return self.report()
