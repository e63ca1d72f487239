"""Values for a Gunicorn configuration file."""

import socket
from ipaddress import ip_network

__all__ = ["listen_address", "trusted_proxies"]


def listen_address(port: int) -> str:
    """The address to bind: all of the machine, IPv6 and IPv4, or IPv4 where there is no IPv6.

    `[::]` accepts both on Linux unless `net.ipv6.bindv6only` is set; platforms probe by either.
    """
    return f"[::]:{port}" if _has_dual_stack() else f"0.0.0.0:{port}"


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
    if not socket.has_dualstack_ipv6():
        return False
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
            return probe.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 0
    except OSError:
        return False
