"""Who sees details: the token in constant time, ten wrong ones a minute, or this very machine."""

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from server_side import SECRET, http_scope

from asgi_health import HealthConfig
from asgi_health.access import Access, Guard, is_direct_loopback

CONFIG = HealthConfig(token=SECRET)
LOCAL = HealthConfig(token=SECRET, details_loopback=True)


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def bearer(token: str = SECRET) -> tuple[bytes, bytes]:
    return (b"authorization", b"Bearer " + token.encode())


def basic(password: str = SECRET, name: str = "anyone") -> tuple[bytes, bytes]:
    return (b"authorization", b"Basic " + base64.b64encode(f"{name}:{password}".encode()))


def scope(*headers: tuple[bytes, bytes], client: Any = ("192.0.2.7", 1)) -> dict[str, Any]:
    return http_scope("/readyz", headers=headers, client=client)


WRONG = scope(bearer("x" * 40))
RIGHT = scope(bearer())


@pytest.mark.parametrize(
    "value",
    [
        f"Bearer {SECRET}",
        f"bearer {SECRET}",
        f"BEARER   {SECRET}  ",
    ],
)
def test_the_token_as_bearer_opens_the_details(value: str) -> None:
    assert Guard(CONFIG).judge(scope((b"authorization", value.encode()))) is Access.DETAILS


@pytest.mark.parametrize(
    "value",
    [
        b"Bearer " + SECRET[:-1].encode(),
        b"Bearer " + SECRET.encode() + b"x",
        b"Bearer " + SECRET.upper().encode(),
        b"Bearer",
        b"Bearer ",
        b"Bearer \xff\xfe",
    ],
)
def test_anything_else_as_bearer_is_wrong(value: bytes) -> None:
    assert Guard(CONFIG).judge(scope((b"authorization", value))) is Access.WRONG


def test_without_authorization_an_answer_is_terse() -> None:
    assert Guard(CONFIG).judge(scope()) is Access.TERSE


def test_basic_is_for_the_page_only() -> None:
    guard = Guard(CONFIG)
    assert guard.judge(scope(basic()), basic=True) is Access.DETAILS
    assert guard.judge(scope(basic())) is not Access.DETAILS


def test_basic_takes_any_name_and_a_password_with_colons() -> None:
    token = "a:b:c:" + SECRET
    guard = Guard(HealthConfig(token=token))
    assert guard.judge(scope(basic(token, name="")), basic=True) is Access.DETAILS


@pytest.mark.parametrize(
    "value", [b"Basic", b"Basic !!!", b"Basic YQ", b"Basic " + base64.b64encode(SECRET.encode())]
)
def test_malformed_basic_opens_nothing(value: bytes) -> None:
    assert Guard(CONFIG).judge(scope((b"authorization", value)), basic=True) is not Access.DETAILS


def test_the_first_of_two_authorizations_counts() -> None:
    assert Guard(CONFIG).judge(scope(bearer("x" * 40), bearer())) is Access.WRONG


def test_after_ten_wrong_tokens_in_a_minute_a_right_one_is_refused_as_well() -> None:
    clock = FakeClock()
    guard = Guard(CONFIG, clock=clock)
    assert [guard.judge(WRONG) for _ in range(10)] == [Access.WRONG] * 10
    assert guard.judge(WRONG) is Access.LIMITED
    assert guard.judge(RIGHT) is Access.LIMITED
    clock.now_s += 59.9
    assert guard.judge(RIGHT) is Access.LIMITED
    clock.now_s += 0.2
    assert guard.judge(RIGHT) is Access.DETAILS


def test_nine_wrong_tokens_do_not_shut_a_right_one_out() -> None:
    guard = Guard(CONFIG, clock=FakeClock())
    for _ in range(9):
        guard.judge(WRONG)
    assert guard.judge(RIGHT) is Access.DETAILS


def test_a_right_token_does_not_wipe_the_count() -> None:
    guard = Guard(CONFIG, clock=FakeClock())
    for _ in range(9):
        guard.judge(WRONG)
    guard.judge(RIGHT)
    guard.judge(WRONG)
    assert guard.judge(RIGHT) is Access.LIMITED


def test_a_new_minute_counts_from_one() -> None:
    clock = FakeClock()
    guard = Guard(CONFIG, clock=clock)
    for _ in range(9):
        guard.judge(WRONG)
    clock.now_s += 60
    assert [guard.judge(WRONG) for _ in range(10)] == [Access.WRONG] * 10
    assert guard.judge(RIGHT) is Access.LIMITED


def test_without_a_token_the_limit_lets_terse_answers_pass() -> None:
    guard = Guard(CONFIG, clock=FakeClock())
    for _ in range(20):
        guard.judge(WRONG)
    assert guard.judge(scope()) is Access.TERSE


def test_addresses_are_counted_apart() -> None:
    guard = Guard(CONFIG, clock=FakeClock())
    for _ in range(11):
        guard.judge(WRONG)
    assert guard.judge(scope(bearer(), client=("192.0.2.8", 1))) is Access.DETAILS


def test_the_port_of_an_address_does_not_matter() -> None:
    guard = Guard(CONFIG, clock=FakeClock())
    for port in range(10):
        guard.judge(scope(bearer("x" * 40), client=("192.0.2.7", port)))
    assert guard.judge(RIGHT) is Access.LIMITED


@pytest.mark.parametrize("client", [None, (), []])
def test_clients_of_a_unix_socket_share_one_count(client: Any) -> None:
    guard = Guard(CONFIG, clock=FakeClock())
    for _ in range(10):
        assert guard.judge(scope(bearer("x" * 40), client=client)) is Access.WRONG
    assert guard.judge(scope(bearer(), client=client)) is Access.LIMITED


def test_a_million_addresses_use_bounded_memory() -> None:
    guard = Guard(CONFIG, clock=FakeClock())
    for number in range(3000):
        guard.judge(scope(bearer("x" * 40), client=(f"2001:db8::{number:x}", 1)))
    assert len(guard._wrong) == 1024


def test_the_busiest_address_is_not_the_first_to_be_forgotten() -> None:
    guard = Guard(CONFIG, clock=FakeClock())
    for number in range(1023):
        guard.judge(scope(bearer("x" * 40), client=(f"a{number}", 1)))
        if number % 100 == 0:
            guard.judge(WRONG)
    for number in range(5):
        guard.judge(scope(bearer("x" * 40), client=(f"b{number}", 1)))
    assert guard.judge(RIGHT) is Access.LIMITED


def test_a_health_check_that_sends_its_own_authorization_is_never_limited() -> None:
    guard = Guard(CONFIG, clock=FakeClock())
    for value in (b"Basic dXNlcjpwYXNz", b"Digest x", b"AWS4-HMAC-SHA256 x", b"", b"Negotiate"):
        for _ in range(20):
            assert guard.judge(scope((b"authorization", value))) is Access.TERSE


def test_where_there_is_no_token_nobody_is_counted_or_limited() -> None:
    guard = Guard(HealthConfig(), clock=FakeClock())
    assert not guard.has_token
    assert {guard.judge(WRONG) for _ in range(20)} <= {Access.WRONG, Access.TERSE}
    assert guard._wrong == {}


@given(st.binary(max_size=80))
def test_no_bytes_whatever_open_the_details_or_raise(value: bytes) -> None:
    guard = Guard(CONFIG)
    for is_page in (False, True):
        found = guard.judge(scope((b"authorization", value)), basic=is_page)
        assert found in {Access.WRONG, Access.TERSE}


# Loopback.


def local_scope(
    *headers: tuple[bytes, bytes], host: bytes = b"localhost:8000", client: Any = ("127.0.0.1", 1)
) -> dict[str, Any]:
    made = http_scope("/readyz", client=client)
    made["headers"] = [(b"host", host), *headers]
    return made


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "::ffff:127.1.2.3"]
)
@pytest.mark.parametrize(
    "host",
    [
        b"localhost",
        b"localhost:8000",
        b"127.0.0.1",
        b"127.0.0.1:80",
        b"[::1]",
        b"[::1]:8000",
        b"LOCALHOST:1",
        b"LocalHost",
    ],
)
def test_a_direct_request_from_this_machine_sees_details(address: str, host: bytes) -> None:
    asking = local_scope(host=host, client=(address, 1))
    assert is_direct_loopback(asking)
    assert Guard(LOCAL).judge(asking) is Access.DETAILS


def test_the_switch_is_off_by_default() -> None:
    assert Guard(CONFIG).judge(local_scope()) is Access.TERSE


@pytest.mark.parametrize(
    "name",
    [
        b"forwarded",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
        b"x-forwarded-port",
        b"x-forwarded-prefix",
        b"x-forwarded",
        b"x-real-ip",
        b"via",
        b"origin",
    ],
)
@pytest.mark.parametrize("value", [b"", b"127.0.0.1", b"localhost", b"null"])
def test_any_sign_of_a_proxy_or_a_page_ends_the_trust(name: bytes, value: bytes) -> None:
    assert Guard(LOCAL).judge(local_scope((name, value))) is Access.TERSE


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b"evil.example",
        b"localhost.evil.example",
        b"evil.example:127.0.0.1",
        b"127.0.0.1.evil.example",
        b"localhost:",
        b"localhost:x",
        b"localhost@evil.example",
        b"127.0.0.2",
        b"::1",
        b"[::1",
        b"[::2]",
        b"0.0.0.0",
        b"\xff",
    ],
)
def test_a_host_of_another_name_ends_the_trust(host: bytes) -> None:
    assert Guard(LOCAL).judge(local_scope(host=host)) is Access.TERSE


def test_two_hosts_or_none_end_the_trust() -> None:
    assert Guard(LOCAL).judge(local_scope((b"host", b"localhost"))) is Access.TERSE
    bare = local_scope()
    bare["headers"] = []
    assert Guard(LOCAL).judge(bare) is Access.TERSE


@pytest.mark.parametrize(
    "client",
    [
        None,
        (),
        ("", 1),
        ("192.0.2.7", 1),
        ("10.0.0.1", 1),
        ("::2", 1),
        ("::ffff:10.0.0.1", 1),
        ("fe80::1", 1),
        ("128.0.0.1", 1),
        ("1127.0.0.1", 1),
        ("localhost", 1),
        ("unix:", 0),
    ],
)
def test_any_other_peer_ends_the_trust(client: Any) -> None:
    assert Guard(LOCAL).judge(local_scope(client=client)) is Access.TERSE


def test_a_wrong_token_from_this_machine_is_wrong_all_the_same() -> None:
    assert Guard(LOCAL).judge(local_scope(bearer("x" * 40))) is Access.WRONG
