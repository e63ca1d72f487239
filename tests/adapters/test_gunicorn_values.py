"""What a Gunicorn configuration file takes from us."""

import socket

import pytest

from asgi_health.adapters.gunicorn import listen_address, trusted_proxies, values


def test_the_address_is_dual_stack_where_the_machine_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "_has_dual_stack", lambda: True)
    assert listen_address(8000) == "[::]:8000"
    monkeypatch.setattr(values, "_has_dual_stack", lambda: False)
    assert listen_address(8000) == "0.0.0.0:8000"


def test_without_ipv6_there_is_no_dual_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    assert listen_address(1) == "0.0.0.0:1"


@pytest.mark.parametrize(
    ("named", "trusted"),
    [
        ("", ""),
        ("*", "*"),
        ("::1", "::1"),
        ("127.0.0.1", "127.0.0.1,::ffff:127.0.0.1/128"),
        ("127.0.0.1,::1", "127.0.0.1,::1,::ffff:127.0.0.1/128"),
        (" 10.0.0.0/8 , fd00::/8 ,", "10.0.0.0/8,fd00::/8,::ffff:10.0.0.0/104"),
    ],
)
def test_trusted_proxies_are_also_spelled_as_a_dual_stack_socket_sees_them(
    named: str, trusted: str
) -> None:
    assert trusted_proxies(named) == trusted


@pytest.mark.parametrize("wrong", ["localhost", "10.0.0.1/8", "10.0.0.0/33", "1.2.3"])
def test_what_is_no_address_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        trusted_proxies(wrong)
