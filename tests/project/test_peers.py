"""Whom to believe: the proxies that are named, and nobody else."""

import asyncio

import pytest

from project.peers import Peers

RAILWAY = Peers(("100.64.0.0/10", "10.1.2.3"), address_header="x-real-ip")


def scope(client: tuple[str, int] | None, **headers: str) -> dict:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"client": client, "headers": pairs}


@pytest.mark.parametrize(
    ("client", "believed"),
    [
        (("100.64.0.7", 4000), True),
        (("100.127.255.255", 4000), True),
        (("::ffff:100.64.0.7", 4000), True),
        (("10.1.2.3", 4000), True),
        (("203.0.113.9", 0), True),  # the server has taken it from a trusted peer's header
        (("203.0.113.9", 4000), False),
        (("10.1.2.4", 4000), False),
        (("2001:db8::1", 4000), False),
        (("::ffff:10.1.2.4", 4000), False),
        (("testclient", 50000), False),
        (None, False),
    ],
)
def test_only_the_named_proxies_are_believed(
    client: tuple[str, int] | None, *, believed: bool
) -> None:
    assert RAILWAY.believes(client) is believed


class Transport(asyncio.BaseTransport):
    """Of a connection."""

    def __init__(self, peer: object) -> None:
        super().__init__()
        self._peer = peer

    def get_extra_info(self, name: str, default: object = None) -> object:
        return self._peer if name == "peername" else default


class Cycle:
    """What Uvicorn's `send` and `receive` are methods of."""

    def __init__(self, peer: object) -> None:
        self.transport = Transport(peer)

    async def send(self, message: object) -> None:
        """Nobody asks it to."""


async def wrapped(message: object) -> None:
    """What says nothing of its connection."""


@pytest.mark.parametrize(
    ("peer", "believed"),
    [
        (("100.64.0.7", 4000), True),
        (("::ffff:100.64.0.7", 4000, 0, 0), True),
        (("203.0.113.9", 4000), False),
        ("", False),  # a socket with a path
        (None, False),
    ],
)
def test_behind_a_proxy_that_writes_ports_the_connection_tells_who_the_peer_is(
    peer: object, *, believed: bool
) -> None:
    named = {"x_forwarded_for": "203.0.113.9:4000", "x_real_ip": "198.51.100.1"}
    asked = scope(("203.0.113.9", 4000), x_request_id="given-by-proxy", **named)
    send = Cycle(peer).send
    told = RAILWAY.told(asked, wrapped, send)
    assert (told.request_id == "given-by-proxy") is believed
    assert (told.client == ("198.51.100.1", 0)) is believed
    assert told.is_believed is believed
    assert RAILWAY.told(asked, wrapped).request_id is None


def test_a_star_believes_everybody() -> None:
    assert Peers(("*",)).believes(("203.0.113.9", 4000))
    assert Peers(("*",)).believes(None)


def test_a_proxy_in_ipv6_is_found() -> None:
    assert Peers(("fd00::/8",)).believes(("fd12::1", 4000))
    assert not Peers(("fd00::/8",)).believes(("fe80::1", 4000))


def test_the_client_is_who_the_proxy_says_it_is() -> None:
    found = RAILWAY.told(scope(("100.64.0.7", 4000), x_real_ip=" 203.0.113.9 ")).client
    assert found == ("203.0.113.9", 0)


@pytest.mark.parametrize(
    ("client", "named"),
    [
        (("203.0.113.9", 4000), "198.51.100.1"),
        (("100.64.0.7", 4000), "nobody"),
        (("100.64.0.7", 4000), "198.51.100.1, 10.0.0.1"),
        (("100.64.0.7", 4000), "é"),
    ],
)
def test_a_name_that_is_not_believed_or_no_address_changes_nothing(
    client: tuple[str, int], named: str
) -> None:
    assert RAILWAY.told(scope(client, x_real_ip=named)).client is None


def test_two_names_are_none() -> None:
    twice = scope(("100.64.0.7", 4000), x_real_ip="198.51.100.1")
    twice["headers"] *= 2
    assert RAILWAY.told(twice).client is None


def test_without_a_header_of_its_own_the_platform_is_not_asked() -> None:
    peers = Peers(("100.64.0.0/10",))
    assert peers.told(scope(("100.64.0.7", 4000), x_real_ip="198.51.100.1")).client is None


def test_who_is_believed_may_say_nothing_and_a_stranger_is_told_apart() -> None:
    assert RAILWAY.told(scope(("100.64.0.7", 4000))) == (None, None, True)
    assert RAILWAY.told(scope(("203.0.113.9", 4000), x_request_id="of-a-stranger")) == (
        None, None, False,
    )  # fmt: skip
