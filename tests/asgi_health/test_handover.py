"""Connections go from one process to others whole, once, and outlive who had them."""

import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from process_side import Say, done_by_a_child, forked

from asgi_health.fleet.handover import FDS_MAX, Handover

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="SCM_RIGHTS as Linux has it")

COUNT = 700


@pytest.fixture(autouse=True)
def room_for_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * COUNT
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"needs {wanted} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def queue() -> Iterator[Handover]:
    made = Handover()
    yield made
    made.close()


class Connections:
    """Numbered connections: the clients, and the descriptors that a server would have."""

    def __init__(self, count: int) -> None:
        pairs = [socket.socketpair() for _ in range(count)]
        self.clients = [client for client, _ in pairs]
        self.servers = [server for _, server in pairs]
        for number, client in enumerate(self.clients):
            client.settimeout(0.0)
            client.send(b"%d" % number)

    @property
    def fds(self) -> list[int]:
        return [server.fileno() for server in self.servers]

    def close_servers(self) -> None:
        for server in self.servers:
            server.close()

    def ended(self) -> list[int]:
        """The numbers of those that nobody has any more."""
        found = []
        for number, client in enumerate(self.clients):
            try:
                if client.recv(100) == b"":
                    found.append(number)
            except BlockingIOError:
                continue
            except ConnectionResetError:
                found.append(number)
        return found

    def close(self) -> None:
        for one in self.clients + self.servers:
            one.close()


@pytest.fixture
def many() -> Iterator[Connections]:
    made = Connections(COUNT)
    yield made
    made.close()


@pytest.fixture
def few() -> Iterator[Connections]:
    made = Connections(20)
    yield made
    made.close()


def numbers(portion: list[socket.socket] | None) -> list[int]:
    """Which connections these are; closes them."""
    assert portion is not None
    found = [int(connection.recv(100)) for connection in portion]
    for connection in portion:
        connection.close()
    return found


def all_numbers(queue: Handover) -> list[list[int]]:
    """All portions that there are."""
    found = []
    while portion := queue.take():
        found.append(numbers(portion))
    return found


def test_an_empty_queue_gives_nothing_and_does_not_wait(queue: Handover) -> None:
    assert queue.take() == []
    assert queue.take() == []


def test_a_queue_that_nobody_can_put_into_any_more_says_so_for_ever(queue: Handover) -> None:
    queue.close_entrance()
    assert queue.take() is None
    assert queue.take() is None


def test_what_lies_in_the_queue_comes_before_its_end(queue: Handover, few: Connections) -> None:
    queue.put(few.fds, takers=1)
    queue.close_entrance()
    assert [number for portion in all_numbers(queue) for number in portion] == list(range(20))
    assert queue.take() is None


def test_as_long_as_another_process_may_put_the_queue_has_not_ended(queue: Handover) -> None:
    gate, opened = os.pipe()

    def wait(say: Say) -> None:
        os.close(opened)
        say("here")
        os.read(gate, 1)

    with forked(wait) as child:
        child.hears()
        queue.close_entrance()
        assert queue.take() == []
        os.close(opened)
        assert child.ends() == 0
        assert queue.take() is None
    os.close(gate)


def test_what_nobody_has_taken_outlives_the_process_that_put_it(
    queue: Handover, many: Connections
) -> None:
    done_by_a_child(lambda say: queue.put(many.fds, takers=4))
    queue.close_entrance()
    many.close_servers()
    assert many.ended() == []
    portions = all_numbers(queue)
    assert [number for portion in portions for number in portion] == list(range(COUNT))
    assert many.ended() == list(range(COUNT))


@pytest.mark.parametrize(
    ("count", "takers", "sizes"),
    [
        (0, 1, []),
        (1, 4, [1]),
        (7, 4, [1] * 7),
        (700, 1, [88] * 7 + [84]),
        (700, 4, [22] * 31 + [18]),
        (2100, 1, [FDS_MAX] * 8 + [76]),
    ],
)
def test_portions_are_so_many_that_all_takers_get_some(
    queue: Handover, few: Connections, count: int, takers: int, sizes: list[int]
) -> None:
    queue.put([few.fds[0]] * count, takers=takers)
    found = []
    while portion := queue.take():
        found.append(len(portion))
        for connection in portion:
            connection.close()
    assert found == sizes


def test_two_takers_share_and_nothing_is_given_twice(queue: Handover, many: Connections) -> None:
    queue.put(many.fds, takers=2)
    queue.close_entrance()
    many.close_servers()

    def take(say: Say) -> None:
        while portion := queue.take():
            say(numbers(portion))

    with forked(take) as one, forked(take) as other:
        found: list[list[int]] = []
        for child in (one, other):
            while (portion := child.hears()) is not None:
                found.append(portion)
        assert (one.reap(), other.reap()) == (0, 0)
    assert sorted(number for portion in found for number in portion) == list(range(COUNT))
    assert len(found) == 16
    assert queue.take() is None


def test_a_taker_that_is_killed_loses_its_portion_and_no_more(
    queue: Handover, few: Connections
) -> None:
    queue.put(few.fds, takers=1)
    few.close_servers()
    kept: list[Any] = []

    def take(say: Say) -> None:
        kept.append(queue.take())
        say([int(connection.recv(100)) for connection in kept[0]])
        signal.pause()

    with forked(take) as child:
        lost = child.hears()
        assert lost == [0, 1, 2]
        assert few.ended() == []
        child.signal(signal.SIGKILL)
        assert child.ends() == -signal.SIGKILL
    assert few.ended() == lost
    queue.close_entrance()
    assert [number for portion in all_numbers(queue) for number in portion] == list(range(3, 20))


def test_what_is_taken_is_not_inherited_and_does_not_block(
    queue: Handover, few: Connections
) -> None:
    for fd in few.fds:
        os.set_inheritable(fd, True)  # noqa: FBT003 - the only way to say it
    queue.put(few.fds, takers=1)
    taken = queue.take()
    assert taken
    for connection in taken:
        assert not os.get_inheritable(connection.fileno())
        assert connection.gettimeout() == 0.0
        assert connection.recv(100)
        with pytest.raises(BlockingIOError):
            connection.recv(100)
        connection.close()


def test_what_is_put_stays_open_where_it_was(queue: Handover, few: Connections) -> None:
    queue.put(few.fds, takers=1)
    all_numbers(queue)
    few.servers[0].send(b"still here")
    assert few.clients[0].recv(100) == b"still here"


def test_a_full_queue_makes_who_puts_wait_and_loses_nothing(
    queue: Handover, few: Connections
) -> None:
    count = 5000  # a portion each: more than any buffer has room for

    def put(say: Say) -> None:
        say("begun")
        queue.put([few.fds[0]] * count, takers=count)

    with forked(put) as child:
        child.hears()
        queue.close_entrance()
        found = 0
        while (portion := queue.take()) is not None:
            found += len(portion)
            for connection in portion:
                connection.close()
        assert child.ends() == 0
    assert found == count


def test_a_queue_that_is_closed_leaves_no_descriptor() -> None:
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names, not paths
    made = Handover()
    made.close()
    made.close()
    assert set(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
