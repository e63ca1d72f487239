"""Values for a Gunicorn configuration file."""

import socket

__all__ = ["listen_address"]


def listen_address(port: int) -> str:
    """The address to bind: every IPv6 and IPv4 address of the machine, or every IPv4 one where
    there is no IPv6.

    `[::]` accepts both on Linux unless `net.ipv6.bindv6only` is set; platforms probe by either.
    """
    return f"[::]:{port}" if _has_dual_stack() else f"0.0.0.0:{port}"


def _has_dual_stack() -> bool:
    if not socket.has_dualstack_ipv6():
        return False
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
            return probe.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 0
    except OSError:
        return False
