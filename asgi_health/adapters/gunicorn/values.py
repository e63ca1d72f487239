"""Values for a Gunicorn configuration file."""

import socket
from ipaddress import ip_network

__all__ = ["listen_address", "loopback_addresses", "trusted_proxies"]


def listen_address(port: int) -> str:
    """The address to bind: all of the machine, IPv6 and IPv4, or IPv4 where there is no IPv6.

    `[::]` accepts both on Linux unless `net.ipv6.bindv6only` is set; platforms probe by either.
    """
    return f"[::]:{port}" if _has_dual_stack() else f"0.0.0.0:{port}"


def loopback_addresses(port: int) -> list[str]:
    """The addresses to bind so that this machine only can connect, as while debugging."""
    addresses = [f"127.0.0.1:{port}"]
    return [*addresses, f"[::1]:{port}"] if _can_bind("::1") else addresses


def trusted_proxies(proxies: str) -> str:
    """Addresses and networks between commas, each IPv4 one also as a dual-stack socket spells it.

    A server that listens on `[::]` sees the peer 192.0.2.1 as `::ffff:192.0.2.1`.

    Raises:
        ValueError: one is neither an address, nor a network, nor `*`.
    """
    named = [proxy.strip() for proxy in proxies.split(",") if proxy.strip()]
    return ",".join([*named, *filter(None, map(_mapped, named))])


def _mapped(proxy: str) -> str:
    if proxy == "*" or (network := ip_network(proxy)).version == 6:
        return ""
    return f"::ffff:{network.network_address}/{96 + network.prefixlen}"


def _has_dual_stack() -> bool:
    if not (socket.has_dualstack_ipv6() and _can_bind("::")):
        return False
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
        return probe.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 0


def _can_bind(host: str) -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True
