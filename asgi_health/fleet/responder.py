"""Holds and answers connections while another process loads: no thread, no Django, no loop.

It reads with MSG_PEEK only, so that what it does not answer itself stays in the kernel, unread, for
the worker that gets the connection later. Connections are watched edge-triggered: level-triggered,
half a request would wake it for ever. Source: epoll(7), recv(2).
"""

import select
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from asgi_health.fleet.desk import Desk, Reply
from asgi_health.fleet.wire import HEAD_MAX_BYTES, has_whole_head, path_of, read_head
from asgi_health.hold import Hold, Outcome
from asgi_health.phase import Phase

__all__ = ["Limits", "Responder"]

_ACCEPTS_A_TURN = 256
_TICK_S = 0.5
_IDLE_S = 60.0
_SMALL_BYTES = 16_384
"""Fits every new connection's buffer in the kernel."""

_LINGER_S = 2.0
"""How long a closed connection may still send, so that no reset overtakes the answer."""

_DEAF_S = 0.1
"""How long no connection is accepted when there is no descriptor, and none of ours to close."""

_STREAMS_MAX = 16
_LEFT = getattr(select, "EPOLLHUP", 0) | getattr(select, "EPOLLERR", 0)
_HALF_CLOSED = getattr(select, "EPOLLRDHUP", 0)
_EDGES = getattr(select, "EPOLLIN", 0) | getattr(select, "EPOLLET", 0) | _HALF_CLOSED


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much is held.

    Args:
        hold_s: seconds that a request is held at most.
        hold_limit: requests held at once at most.
        open_max: connections at most; one more ends the oldest that has sent nothing whole.
    """

    hold_s: float
    hold_limit: int
    open_max: int


@dataclass(slots=True, eq=False)
class _Connection:
    """An open connection; `ends_s` is when it has been held, or kept open, long enough."""

    socket: socket.socket
    client: tuple[str, int] | None
    ends_s: float = 0.0
    shown: dict[str, str] = field(default_factory=dict)


class Responder:
    """Accepts on `listeners`, answers what `desk` answers, holds the rest.

    A connection is silent (nothing whole has come), held, closing (answered; the client may still
    send), or a stream (of the status page).
    """

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        *,
        desk: Desk,
        hold: Hold,
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._desk = desk
        self._hold = hold
        self._limits = limits
        self._hold_limit = min(limits.hold_limit, limits.open_max - 1)
        self._clock = clock
        self._listeners = {listener.fileno(): listener for listener in listeners}
        self._silent: dict[int, _Connection] = {}
        self._held: dict[int, _Connection] = {}
        self._closing: dict[int, _Connection] = {}
        self._streams: dict[int, _Connection] = {}
        self._watched: dict[int, Callable[[], None]] = {}
        self._next_tick_s = clock() + _TICK_S
        self._deaf_until_s: float | None = None
        self._is_done = False
        self._poll = select.epoll()
        for fd, listener in self._listeners.items():
            listener.settimeout(0.0)
            self._poll.register(fd, select.EPOLLIN)

    def watch(self, fd: int, on_readable: Callable[[], None]) -> None:
        """Call `on_readable` whenever there is something to read."""
        self._watched[fd] = on_readable
        self._poll.register(fd, select.EPOLLIN)

    def unwatch(self, fd: int) -> None:
        """Watch it no more."""
        if self._watched.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def run(self, *, until_s: Callable[[], float | None], on_time: Callable[[], None]) -> None:
        """Serve until `end`; at the monotonic second `until_s()` call `on_time`."""
        while not self._ended():
            due_s = until_s()
            timeout_s = self._timeout_s(due_s)
            # New connections last: they may get the number of one that ends in this turn.
            events = self._poll.poll(timeout_s)
            for fd, event in sorted(events, key=lambda found: found[0] in self._listeners):
                if self._ended():
                    return  # the rest of the batch belongs to who has the connections now
                self._handle(fd, event)
            due_s = until_s()
            if due_s is not None and self._clock() >= due_s:
                on_time()
            self._expire()

    def end(self) -> None:
        """Leave `run`, without another look at any connection."""
        self._is_done = True

    def _ended(self) -> bool:
        return self._is_done

    def open_connections(self) -> list[int]:
        """The descriptors of all connections that nobody has finished with, oldest first."""
        ongoing = {**self._held, **self._silent}
        return list(ongoing)

    def refuse_held(self) -> None:
        """Answer whatever is held, by the desk's phase."""
        for fd, connection in list(self._held.items()):
            self._refuse(fd, connection)

    def end_streams(self) -> None:
        """Let the status page know that nothing more comes."""
        for fd, stream in list(self._streams.items()):
            self._send(fd, stream, Reply(self._desk.farewell, closes=True))

    def farewell(self, *, limit_s: float) -> None:
        """Give answers on their way the time to arrive, before the process ends with all it has."""
        end_s = self._clock() + limit_s
        for fd in list(self._listeners):
            self._poll.unregister(fd)
        self._listeners.clear()
        for fd in list(self._watched):
            self.unwatch(fd)
        while self._closing and self._clock() < end_s:
            for fd, event in self._poll.poll(max(0.0, end_s - self._clock())):
                if fd in self._closing:
                    self._handle(fd, event)

    def _timeout_s(self, due_s: float | None) -> float:
        """Until the next thing to do by the clock; what came first of a kind ends first."""
        now_s = self._clock()
        times = [next(iter(kind.values())).ends_s for kind in (self._held, self._closing) if kind]
        if due_s is not None:
            times.append(due_s)
        if self._deaf_until_s is not None:
            times.append(self._deaf_until_s)
        if self._streams:
            times.append(self._next_tick_s)
        return max(0.0, min(times, default=now_s + _IDLE_S) - now_s)

    def _handle(self, fd: int, event: int) -> None:
        if fd in self._listeners:
            self._accept(self._listeners[fd])
        elif fd in self._watched:
            self._watched[fd]()
        elif fd in self._closing:
            self._swallow(fd)
        elif event & _LEFT or (event & _HALF_CLOSED and fd not in self._silent):
            self._leave(fd)
        elif fd in self._silent:
            self._look(fd, self._silent[fd], is_half_closed=bool(event & _HALF_CLOSED))

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTS_A_TURN):
            try:
                accepted, address = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError:  # descriptors have run out
                if not self._make_room():
                    self._listen(is_deaf=True)  # else it would wake us for ever
                    return
                continue
            accepted.settimeout(0.0)
            client = (address[0], address[1]) if isinstance(address, tuple) else None
            fd, connection = accepted.fileno(), _Connection(accepted, client)
            if self._count() >= self._limits.open_max:
                self._make_room()
            self._silent[fd] = connection
            self._poll.register(fd, _EDGES)
            self._look(fd, connection)  # else the next one might take its room as a silent one's

    def _listen(self, *, is_deaf: bool) -> None:
        self._deaf_until_s = self._clock() + _DEAF_S if is_deaf else None
        for fd in self._listeners:
            self._poll.modify(fd, 0 if is_deaf else select.EPOLLIN)

    def _count(self) -> int:
        return sum(map(len, (self._silent, self._held, self._closing, self._streams)))

    def _make_room(self) -> bool:
        """End the oldest connection that nothing whole has come from, or one that is answered."""
        for kind in (self._silent, self._closing, self._streams, self._held):
            if kind:
                self._drop(next(iter(kind)))
                return True
        return False

    def _look(self, fd: int, connection: _Connection, *, is_half_closed: bool = False) -> None:
        """Answer all probes at the front of what has come; hold what is no probe."""
        while fd in self._silent:
            try:
                seen = connection.socket.recv(HEAD_MAX_BYTES, socket.MSG_PEEK)
            except BlockingIOError:
                return
            except OSError:
                self._drop(fd)
                return
            if not seen:
                self._drop(fd)
                return
            if not self._answer(fd, connection, seen):
                break
        if is_half_closed and (fd in self._silent or fd in self._held):
            self._leave(fd)  # servers take the end of what a client sends for its leaving

    def _answer(self, fd: int, connection: _Connection, seen: bytes) -> bool:
        """Whether the front was a probe, which is answered and consumed now."""
        found = path_of(seen)
        if found is None:
            if len(seen) >= HEAD_MAX_BYTES:
                self._take_in(fd, connection)
            return False
        head = read_head(seen) if self._desk.must_read(*found) else None
        if head is None:
            is_whole = not self._desk.must_read(*found) or has_whole_head(seen)
            if is_whole or len(seen) >= HEAD_MAX_BYTES:
                self._take_in(fd, connection)
            return False
        body_bytes = head.body_bytes or 0
        if len(seen) < head.size_bytes + body_bytes:
            return False  # the rest of its body is on the way
        may_stream = len(self._streams) < _STREAMS_MAX
        reply = self._desk.reply(head, client=connection.client, may_stream=may_stream)
        if reply is None:
            self._take_in(fd, connection)
            return False
        connection.socket.recv(min(len(seen), head.size_bytes + body_bytes))
        return self._send(fd, connection, reply)

    def _take_in(self, fd: int, connection: _Connection) -> None:
        """Hold a request, or refuse it: over the limit, or because the boot is over."""
        del self._silent[fd]
        self._held[fd] = connection
        if self._desk.phase is not Phase.LOADING:
            self._refuse(fd, connection)
        elif len(self._held) > self._hold_limit or self._limits.hold_s <= 0:
            self._refuse(fd, connection, Outcome.REFUSED)
        else:
            connection.ends_s = self._clock() + self._limits.hold_s
            self._hold.now = len(self._held)

    def _refuse(self, fd: int, connection: _Connection, outcome: Outcome | None = None) -> None:
        self._hold.count(outcome or Outcome.SETTLED)
        try:
            seen = connection.socket.recv(HEAD_MAX_BYTES)
        except OSError:
            self._drop(fd)
            return
        reply = self._desk.refuse(read_head(seen), client=connection.client)
        self._send(fd, connection, reply)

    def _send(self, fd: int, connection: _Connection, reply: Reply) -> bool:
        """Send an answer; whether the connection goes on."""
        try:
            if len(reply.data) > _SMALL_BYTES:
                size = socket.SO_SNDBUF
                connection.socket.setsockopt(socket.SOL_SOCKET, size, 2 * len(reply.data))
            sent = connection.socket.send(reply.data)
        except OSError:
            sent = -1
        if sent != len(reply.data):
            self._drop(fd)
            return False
        if reply.is_stream:
            self._forget(fd)
            self._streams[fd] = connection
            self._show(fd, connection)
        elif reply.closes:
            self._close(fd, connection)
        return not reply.closes

    def _close(self, fd: int, connection: _Connection) -> None:
        """Say that nothing more comes, and wait for the client to do the same."""
        self._forget(fd)
        connection.ends_s = self._clock() + _LINGER_S
        self._closing[fd] = connection
        try:
            connection.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop(fd)
            return
        self._swallow(fd)

    def _swallow(self, fd: int) -> None:
        """Read and forget what still comes on a connection that has been answered."""
        connection = self._closing[fd]
        try:
            while connection.socket.recv(65_536):
                pass
        except BlockingIOError:
            return
        except OSError:
            pass
        self._drop(fd)

    def _leave(self, fd: int) -> None:
        """The client has gone."""
        if fd in self._held:
            self._hold.count(Outcome.GONE)
        self._drop(fd)

    def _expire(self) -> None:
        """End whatever has lasted long enough; tell streams what is new."""
        now_s = self._clock()
        for kind, end in ((self._held, self._give_up), (self._closing, self._drop)):
            while kind and next(iter(kind.values())).ends_s <= now_s:
                end(next(iter(kind)))
        if self._deaf_until_s is not None and now_s >= self._deaf_until_s:
            self._listen(is_deaf=False)
        if now_s >= self._next_tick_s:
            self._next_tick_s = now_s + _TICK_S
            for fd, stream in list(self._streams.items()):
                self._show(fd, stream)

    def _give_up(self, fd: int) -> None:
        self._refuse(fd, self._held[fd], Outcome.EXPIRED)

    def _show(self, fd: int, stream: _Connection) -> None:
        event = self._desk.event(stream.shown)
        try:
            is_sent = stream.socket.send(event) == len(event) if event else True
        except OSError:
            is_sent = False
        if not is_sent:
            self._drop(fd)

    def _forget(self, fd: int) -> None:
        for kind in (self._silent, self._held, self._closing, self._streams):
            kind.pop(fd, None)
        self._hold.now = len(self._held)

    def _drop(self, fd: int) -> None:
        for kind in (self._silent, self._held, self._closing, self._streams):
            if fd in kind:
                kind[fd].socket.close()  # which takes it out of the epoll set
        self._forget(fd)
