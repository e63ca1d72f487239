"""One policy: the gate's own answers and Django's carry the same headers."""

import pytest
from django.test import Client

from project.cors import cors_policy
from project.env import Env, current

ORIGIN = "https://vlanet.net"
STRANGER = "https://vlanet.net.evil.example"


def cors_headers(pairs) -> dict[str, frozenset[str]]:
    """The CORS headers of an answer, without regard to case and order."""
    return {
        name.lower(): frozenset(part.strip().lower() for part in value.split(","))
        for name, value in pairs
        if name.lower().startswith("access-control-")
    }


def of_the_gate(headers) -> dict[str, frozenset[str]]:
    return cors_headers((name.decode(), value.decode()) for name, value in headers)


@pytest.mark.parametrize("origin", [ORIGIN, "https://www.vlanet.net"])
@pytest.mark.parametrize("path", ["/api/ping", "/api/projects", "/api/nothing/here"])
def test_gate_and_django_answer_a_preflight_alike(client: Client, origin: str, path: str) -> None:
    answer = client.options(
        path, headers={"origin": origin, "access-control-request-method": "POST"}
    )

    expected = of_the_gate(cors_policy(current()).preflight_headers(origin.encode()))
    assert answer.status_code == 200
    found = cors_headers(answer.items())
    # django-cors-headers names them here as well, where browsers do not look (Fetch, 3.3.4).
    assert found.pop("access-control-expose-headers")
    assert found == expected
    assert expected["access-control-max-age"] == {"600"}
    assert expected["access-control-allow-credentials"] == {"true"}


@pytest.mark.parametrize("origin", [STRANGER, "http://vlanet.net", "null", "https://a.vlanet.net"])
def test_neither_allows_a_stranger(client: Client, origin: str) -> None:
    for answer in (
        client.options(
            "/api/ping", headers={"origin": origin, "access-control-request-method": "GET"}
        ),
        client.get("/api/ping", headers={"origin": origin}),
    ):
        assert cors_headers(answer.items()) == {}
        assert "origin" in answer["Vary"].lower()
    assert of_the_gate(cors_policy(current()).preflight_headers(origin.encode())) == {}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("get", "/api/ping", 200), ("get", "/api/projects", 401), ("get", "/api/nothing", 404),
     ("delete", "/api/ping", 405)],
)  # fmt: skip
def test_answers_and_errors_carry_the_same_headers_as_the_gates(
    client: Client, method: str, path: str, status: int
) -> None:
    answer = getattr(client, method)(path, headers={"origin": ORIGIN})

    assert answer.status_code == status
    expected = of_the_gate(cors_policy(current()).answer_headers(ORIGIN.encode()))
    assert cors_headers(answer.items()) == expected
    assert "origin" in answer["Vary"].lower()


def test_the_policy_holds_what_the_contract_names() -> None:
    policy = cors_policy(current())

    assert policy.allow_methods == ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
    assert set(policy.allow_headers) >= {
        "authorization", "content-type", "x-idempotency-key", "x-requested-with", "cache-control",
        "pragma", "if-none-match", "range", "tus-resumable", "upload-offset", "upload-length",
        "upload-metadata",
    }  # fmt: skip
    assert set(policy.expose_headers) >= {
        "X-Request-ID", "Retry-After", "ETag", "Location", "Content-Range",
        "X-Idempotency-Replayed", "Tus-Resumable", "Upload-Offset",
    }  # fmt: skip


def test_only_debug_lets_the_local_frontend_in() -> None:
    debug = Env.read({"ENV_FILE": "/dev/null", "SECRET_KEY": "x", "DEBUG": "1"})

    assert "http://localhost:3000" in cors_policy(debug).origins
    assert "http://localhost:3000" not in cors_policy(current()).origins
