"""No secret in a text or a field, in whatever form it comes; what is none stays readable."""

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from project.redaction import REDACTED, Redactor

SECRET = "aB3dEf6hIj9kLmNoPqRsTu"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    "text",
    [
        "GET /x?token={}&page=1",
        "/reset?page=1&code={}",
        "/files/1?sig={}#top",
        "Authorization: Bearer {}",
        "Authorization: Basic {}",
        "authorization=Token {}",
        "{{'authorization': 'Bearer {}'}}",
        "(b'authorization', b'Bearer {}'), (b'host', b'x')",
        "Cookie: sessionid={}; csrftoken={}",
        "Cookie: anything={}",
        "(b'cookie', b'a={}; b={}')",
        "Set-Cookie: sessionid={}; HttpOnly",
        '{{"password": "{}", "name": "me"}}',
        '{{"new_password1":"{}"}}',
        "{{'password': 'two words {}'}}",
        "password={}",
        "PASSWORD = '{}'",
        "reset_token='{}'",
        "X-CSRFToken: {}",
        "csrfmiddlewaretoken={}&name=x",
        "api-key: {}",
        "postgresql://user:{}@db.example.org:5432/name",
        "redis://:{}@cache:6379/0",
        "https://user:{}@example.org/path",
        "verification_code={}",
        "secret='unterminated {}",
        "Not Found: /r/{}",
        "Not Found: /share/{}/videos?x=1",
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----",
        "argon2$argon2id$v=19$m=102400,t=2,p=8${}",
        "pbkdf2_sha256$1000000$salt${}",
        "<QueryDict: {{'password': ['{}'], 'csrfmiddlewaretoken': ['{}']}}>",
        '"tokens": ["{}", "{}"]',
        '"password": {{"new": "{}"}}',
        "Cookies: {{'sid': '{}', 'x': '{}'}}",
        '"{{\\"password\\": \\"{}\\"}}"',
        'token="ab\\"cd{}"',
        '"password":\n        "{}"',
        "password%3D{}",
        "/login?next=%2Freset%3Ftoken%3D{}",
        "DETAIL:  Key (token)=({}) already exists.",
        "Cookie: a=it's; sid={}",
        'Authorization: Digest username="me", response="{}"',
        "Authorization: ApiKey {}",
        "https://{}@example.org/path",
        "/r/{}.",
        "password: hun,{}",
        "<password>{}</password>",
        'name="password"\r\n\r\n{}',
        "token => {}",
        "비밀번호: {}",
        "refreshToken={}",
        '{{"newPassword": "{}"}}',
    ],
)
def test_a_secret_in_a_text_is_replaced(text: str) -> None:
    found = Redactor().text(text.format(SECRET, SECRET))

    assert SECRET not in found
    assert REDACTED in found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("GET /x?token=abc&page=1", "GET /x?token=[redacted]&page=1"),
        ("Authorization: Bearer abc", "Authorization: [redacted]"),
        ("postgresql://me:pa/ss@2@db:5432/x", "postgresql://[redacted]@db:5432/x"),
        ("your code is 123456.", "your code is [redacted]."),
        ("OTP: 9876", "OTP: [redacted]"),
        (f"see {JWT} there", "see [redacted] there"),
        (f"/r/{SECRET}/x", "/r/[redacted]/x"),
        ('{"password": "a b", "n": 1}', '{"password": [redacted], "n": 1}'),
    ],
)
def test_what_stands_around_a_secret_stays(text: str, expected: str) -> None:
    assert Redactor().text(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "boot failed: boot.import_error: No module named 'apps.videos'",
        'File "/usr/lib/python3.11/site-packages/django/core/handlers/base.py", line 197, in get',
        "worker 4711 ended: exit code 1",
        "GET /api/projects/123e4567-e89b-12d3-a456-426614174000/ 200",
        "https://videoplanet.up.railway.app:8443/api/projects?page=2",
        "the token has expired",
        "handed 12 connections over, 3 with a request",
        "안녕하세요 😀",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert Redactor(["another secret"]).text(text) == text


def test_a_secret_that_the_process_knows_is_found_in_any_spelling() -> None:
    redactor = Redactor(["p@ss/word with + signs", "short", "", "a-key-that-is-long"])

    assert redactor.text("x a-key-that-is-long-y") == f"x {REDACTED}-y"
    assert redactor.text("p%40ss%2Fword%20with%20%2B%20signs") == REDACTED
    assert redactor.text("a short word") == "a short word"


def test_of_two_known_secrets_the_longer_one_is_replaced_whole() -> None:
    assert Redactor(["secret-a", "secret-a-and-more"]).text("secret-a-and-more") == REDACTED


@pytest.mark.parametrize(
    "name",
    [
        "password", "new_password2", "token", "access_token", "health-token", "Authorization",
        "HTTP_COOKIE", "cookies", "sessionid", "session_key", "csrf_token", "api_key", "X-Api-Key",
        "client_secret", "otp", "verification_code", "dsn", "credentials", "accessToken",
        "refreshToken", "newPassword", "idToken", "secretKey", "authorizationHeader", "otpCode",
        "pass", "passcode", "pin", "auth", "access_key", "database_url", "비밀번호", "인증번호",
    ],
)  # fmt: skip
def test_a_field_with_the_name_of_a_secret_is_not_shown(name: str) -> None:
    assert Redactor().field(name, "hunter2") == REDACTED
    assert Redactor().field(name, 123456) == REDACTED
    assert Redactor().field(name, ["hunter2"]) == REDACTED


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("code", "boot.import_error"), ("status", 200), ("user_id", 7), ("route", "/api/projects"),
        ("duration_ms", 1.5), ("worker", 4711), ("token", None), ("has_token", False),
        ("sessions_open", 3), ("tokens_used", True), ("max_tokens", 100), ("token_count", 7),
        ("token_type", "access"), ("password_changed_at", "yesterday"), ("passed", 3),
        ("author", "somebody"), ("pinned", "yes"), ("bypass", "road"),
    ],
)  # fmt: skip
def test_an_innocent_field_stays_as_it_is(name: str, value: object) -> None:
    redacted = Redactor().field(name, value)

    assert (redacted, type(redacted)) == (value, type(value))


def test_the_code_of_a_person_is_a_secret_and_that_of_an_error_is_none() -> None:
    assert Redactor().field("code", "123456") == REDACTED
    assert Redactor().field("code", 123456) == REDACTED
    assert Redactor().field("code", "fleet.crash_loop") == "fleet.crash_loop"


def test_what_lies_inside_a_field_is_looked_at() -> None:
    value = {
        "headers": [(b"cookie", b"sessionid=1"), (b"host", b"example.org")],
        "body": {"password": "hunter2", "names": ["a", f"Bearer {SECRET}"]},
        b"secret": 1,
        "object": ValueError(f"token={SECRET}"),
        "raw": f"password={SECRET}".encode(),
    }

    assert Redactor().field("request", value) == {
        "headers": [["cookie", REDACTED], ["host", "example.org"]],
        "body": {"password": REDACTED, "names": ["a", f"Bearer {REDACTED}"]},
        "secret": REDACTED,
        "object": f"token={REDACTED}",
        "raw": f"password={REDACTED}",
    }


@pytest.mark.parametrize(
    "path",
    [
        f"/reset/MQ/c8x0p9-{'0123456789abcdef' * 2}/",
        "/r/abcdefghij0123456789klmn",
        "/r/abcdefghijklmNOPQRSTuv",
        f"/share/{'0123456789abcdef' * 2}",
    ],
)
def test_a_random_part_of_a_path_is_a_secret(path: str) -> None:
    assert Redactor().text(f"Not Found: {path}") != f"Not Found: {path}"


def test_a_number_that_json_does_not_know_becomes_a_text() -> None:
    assert Redactor().field("ratio", float("nan")) == "nan"
    assert Redactor().field("ratio", float("inf")) == "inf"


def test_a_short_secret_that_the_process_knows_is_found_as_a_word_only() -> None:
    redactor = Redactor(["postgres"])
    assert redactor.text("postgresql refuses postgres.") == f"postgresql refuses {REDACTED}."


def test_the_first_of_two_and_keys_are_looked_at() -> None:
    assert Redactor().field("x", ["Bearer hunter2hunter2", "y"]) == [f"Bearer {REDACTED}", "y"]
    assert Redactor().field("x", {"?token=hunter2": 1}) == {f"?token={REDACTED}": 1}


def test_what_has_no_text_is_named() -> None:
    class Mute:
        def __str__(self) -> str:
            raise ValueError

    assert Redactor().field("x", Mute()) == "<Mute without a text: ValueError>"


def test_a_field_that_contains_itself_comes_to_an_end() -> None:
    endless: list[object] = ["x"]
    endless.append(endless)

    assert "..." in str(Redactor().field("value", endless))


@given(st.text())
@example("://:" * 20_000)
@example("password" * 20_000)
@example("cookie:" * 20_000)
@example("-" * 200_000)
@example("/aA1" * 20_000)
@example("Bearer " * 20_000)
@example("eyJ" + "a." * 50_000)
@example("/" + "csrfcsrfcsrfcsrfcsrf-" * 5_000)
@example("token-" * 20_000)
@example("a-" * 50_000)
@example('password": "' * 10_000)
@example("password=[" * 10_000)
def test_any_text_is_done_with_in_linear_time(text: str) -> None:
    begun_s = time.process_time()
    Redactor(["known secret"]).text(text)
    assert time.process_time() - begun_s < 0.5 + 50e-6 * len(text)  # what explodes takes hours
