"""Whom to believe what a request says of itself: its id, and the address of its client."""

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any, Final, NamedTuple

from asgi_health.types import Header, Scope

__all__ = ["Peers", "Told"]

_REMEMBERED = 1024
_LEGAL_ID = re.compile(rb"[A-Za-z0-9._:=+/-]{8,128}")


class Told(NamedTuple):
    """What a proxy says of a request.

    Args:
        client: whom it names in its own header; None where it names nobody.
        request_id: None where it has given none.
        is_believed: whether it is one of ours; else nothing is told.
    """

    client: tuple[str, int] | None = None
    request_id: str | None = None
    is_believed: bool = True


_NOTHING: Final = Told()
_BY_STRANGER: Final = Told(is_believed=False)


class Peers:
    """The proxies in front of this service.

    Args:
        proxies: addresses and networks; `*` is everybody.
        address_header: the header in which they name the client's address, in small letters; empty
            where `X-Forwarded-For` is all there is, which the server has read already.
        id_header: the header in which they name the request, in small letters.
    """

    def __init__(
        self,
        proxies: tuple[str, ...],
        *,
        address_header: str = "",
        id_header: str = "x-request-id",
    ) -> None:
        self._believes_all = "*" in proxies
        self._networks = tuple(ip_network(proxy) for proxy in proxies if proxy != "*")
        self._header = address_header.encode("ascii")
        self._id_header = id_header.encode("ascii")
        self._names = frozenset({self._header, self._id_header} - {b""})
        self._is_proxy = lru_cache(_REMEMBERED)(self._find)

    def believes(self, client: Any, *wires: object) -> bool:
        """Whether a proxy of ours stands between this service and the client.

        Of an address with a port the scope does not tell whether Uvicorn has taken it from a
        trusted peer's header or from the connection: a stranger may write its own address and port
        into that header, too. The connection cannot be forged. Where it is not to be had (what
        stands between wraps both; a request that was held and meets the drain), only an address
        without a port shows that there is a proxy.

        Args:
            client: host and port, as in an ASGI scope. Uvicorn writes port 0 when it has taken the
                host, without a port, from a header of a trusted peer; no connection has that port.
            wires: the server's own `receive` and `send`, or what stands for them.
        """
        if self._believes_all:
            return True
        if not client:
            return False
        if client[1] == 0 or self._is_proxy(client[0]):
            return True
        return any(self._is_proxy(host) for host in map(_peer_of, wires) if host)

    def told(self, scope: Scope, *wires: object) -> Told:
        """What a trusted proxy says of a request; nothing of it when a stranger says so.

        `wires` as for `believes`.
        """
        if not self.believes(scope.get("client"), *wires):
            return _BY_STRANGER
        names = self._names
        for name, _ in scope["headers"]:
            if name in names:
                headers = scope["headers"]
                return Told(client=self._client_in(headers), request_id=self._id_in(headers))
        return _NOTHING

    def _client_in(self, headers: Iterable[Header]) -> tuple[str, int] | None:
        named = [value for name, value in headers if name == self._header]
        if len(named) != 1:
            return None
        try:
            return str(ip_address(named[0].decode("ascii").strip())), 0
        except ValueError:  # UnicodeDecodeError is one
            return None

    def _id_in(self, headers: Iterable[Header]) -> str | None:
        named = [value for name, value in headers if name == self._id_header]
        if len(named) != 1 or not _LEGAL_ID.fullmatch(named[0]):
            return None
        return named[0].decode("ascii")

    def _find(self, host: str) -> bool:
        try:
            address = ip_address(host)
        except ValueError:  # a name, in tests
            return False
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(
            address.version == network.version and address in network for network in self._networks
        )


def _peer_of(wire: object) -> str | None:
    """The address at the other end of the connection; None where it is not to be had.

    Uvicorn's `receive` and `send` are methods of what has the transport. Source:
    uvicorn.protocols.http, uvicorn.protocols.websockets.
    """
    transport = getattr(getattr(wire, "__self__", None), "transport", None)
    ask = getattr(transport, "get_extra_info", None)  # uvloop's are no asyncio.BaseTransport
    name = None if ask is None else ask("peername")
    return name[0] if isinstance(name, tuple) and name else None
