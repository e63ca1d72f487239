"""Open connections on their way from one process to others: a queue of descriptors in the kernel.

Whoever takes a message owns the connections in it; what nobody has taken stays in the queue, even
when the process that put it there has ended. Source: unix(7), SCM_RIGHTS.
"""

import errno
import os
import socket
import time
from collections.abc import Iterator, Sequence

__all__ = ["FDS_MAX", "Handover"]

FDS_MAX = 253
"""What Linux takes in one message."""

_PUT_LIMIT_S = 30.0
_PUT_PAUSE_S = 0.01
_ROUNDS = 8
"""Each worker finds about so many portions, so that they share what there is."""


class Handover:
    """A queue of connections; made before the processes that use it are forked."""

    def __init__(self) -> None:
        self._out, self._in = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._in.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self._out.settimeout(0.0)

    def put(self, fds: Sequence[int], *, takers: int) -> None:
        """Put open connections into the queue, in portions for about `takers` processes.

        Blocking while the queue is full. The caller's own descriptors stay open.

        Raises:
            OSError: the kernel refuses, for example too many descriptors on their way (unix(7)).
        """
        portion = max(1, min(FDS_MAX, -(-len(fds) // (_ROUNDS * takers))))
        for start in range(0, len(fds), portion):
            self._put_portion(fds[start : start + portion])

    def _put_portion(self, fds: Sequence[int]) -> None:
        end_s = time.monotonic() + _PUT_LIMIT_S
        while True:
            try:
                socket.send_fds(self._in, [b"c"], fds)
            except OSError as error:
                if error.errno != errno.ETOOMANYREFS or time.monotonic() > end_s:
                    raise
                time.sleep(_PUT_PAUSE_S)  # until somebody has taken a portion
            else:
                return

    def take(self) -> list[socket.socket] | None:
        """The next portion, non-blocking sockets: none when there is none yet. Never blocks.

        None when nothing comes any more; then this process has closed its end of the queue.
        """
        if self._out.fileno() < 0:
            return None
        try:
            data, fds, _, _ = socket.recv_fds(self._out, 1, FDS_MAX)
        except BlockingIOError:
            return []
        if not data:
            self.close()
            return None
        return list(_sockets(fds))

    def close_entrance(self) -> None:
        """This process puts nothing in."""
        self._in.close()

    def close(self) -> None:
        """This process has nothing to do with the queue."""
        self._in.close()
        self._out.close()


def _sockets(fds: Sequence[int]) -> Iterator[socket.socket]:
    for fd in fds:
        os.set_inheritable(fd, False)  # noqa: FBT003 - Python 3.11 ignores the flag of recv_fds that would
        connection = socket.socket(fileno=fd)
        connection.settimeout(0.0)
        yield connection
