"""The API as a whole: both spellings, one form of error, documentation that works offline."""

import logging
import re

import pytest
from django.test import Client
from django.urls import get_resolver

from apps.accounts.models import User
from apps.projects import selectors
from project.api import api, urls


@pytest.mark.parametrize("path", ["/api/ping", "/api/ping/"])
def test_the_ping_touches_no_dependency(client: Client, path: str) -> None:
    """(Without a database mark, pytest-django refuses any query.)"""
    answer = client.get(path)

    assert (answer.status_code, answer.content) == (200, b'{"status":"ok"}')
    assert "sessionid" not in answer.cookies


def test_every_address_has_both_spellings() -> None:
    routes = {str(pattern.pattern) for pattern in urls()} - {""}

    assert routes
    assert {route.rstrip("/") for route in routes if route.endswith("/")} == {
        route for route in routes if not route.endswith("/")
    }


@pytest.mark.parametrize(
    "path", ["/api/docs", "/api/docs/", "/api/openapi.json", "/api/openapi.json/"]
)
def test_the_documentation_answers_in_both_spellings(client: Client, path: str) -> None:
    assert client.get(path).status_code == 200


def test_the_documentation_takes_nothing_from_elsewhere(client: Client) -> None:
    sources = re.findall(r'(?:href|src)="([^"]+)"', client.get("/api/docs").content.decode())

    assert sources
    assert all(source.startswith("/static/ninja/") for source in sources)


def test_the_schema_describes_every_endpoint_and_its_errors(client: Client) -> None:
    schema = client.get("/api/openapi.json").json()

    described = {(path, method) for path, methods in schema["paths"].items() for method in methods}
    assert described == {
        ("/api/ping", "get"),
        ("/api/projects", "get"),
        ("/api/projects", "post"),
        ("/api/projects/create", "post"),
    }
    created = schema["paths"]["/api/projects/create"]["post"]["responses"]
    assert set(created) == {"201", "401", "403", "409", "422"}
    operations = [
        operation["operationId"]
        for methods in schema["paths"].values()
        for operation in methods.values()
    ]
    assert len(operations) == len(set(operations))


def test_only_the_ping_is_open() -> None:
    open_paths = {
        path
        for router in api._get_bound_routers()
        for path, view in router.path_operations.items()
        for operation in view.operations
        if not operation.auth_callbacks
    }

    assert open_paths == {"/ping"}


@pytest.mark.parametrize("path", ["/api", "/api/", "/api/nothing", "/api/nothing/", "/api/ping/x"])
@pytest.mark.parametrize("method", ["get", "post", "put", "patch", "delete"])
def test_an_unknown_address_answers_json(method: str, path: str) -> None:
    client = Client(enforce_csrf_checks=True)

    answer = getattr(client, method)(path, headers={"accept-language": "ko"})

    assert answer.status_code == 404
    assert answer.json() == {
        "code": "request.not_found",
        "message": "찾을 수 없습니다.",
        "detail": "찾을 수 없습니다.",
    }


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("delete", "/api/ping", {"GET"}), ("put", "/api/projects/", {"GET", "POST"})],
)
def test_a_method_that_is_not_taken_answers_json(client, method, path, allowed) -> None:
    answer = getattr(client, method)(path)

    assert (answer.status_code, answer.json()["code"]) == (405, "request.method_not_allowed")
    assert set(answer["Allow"].split(", ")) == allowed


@pytest.mark.django_db
def test_what_nobody_expected_answers_json_and_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(**_: object) -> None:
        raise RuntimeError("the reason is for the log only")

    monkeypatch.setattr(selectors, "list_projects", broken)
    client = Client(raise_request_exception=False)
    client.force_login(User.objects.create_user("a@example.com"))

    with caplog.at_level(logging.ERROR):
        answer = client.get(
            "/api/projects", headers={"origin": "https://vlanet.net", "accept-language": "ko"}
        )

    assert (answer.status_code, answer.json()["code"]) == (500, "server.error")
    assert "문제가" in answer.json()["message"]
    assert "reason" not in answer.content.decode()
    assert answer["Access-Control-Allow-Origin"] == "https://vlanet.net"
    assert [record.name for record in caplog.records] == ["django.request"]


def test_an_unknown_page_answers_html(client: Client) -> None:
    answer = client.get("/nothing")

    assert answer.status_code == 404
    assert answer["Content-Type"].startswith("text/html")


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/admin", "/admin/"),
        ("/admin/login", "/admin/login/"),
        ("/admin/projects/project?q=a%20b", "/admin/projects/project/?q=a%20b"),
    ],
)
def test_the_admin_without_its_slash_leads_there(client: Client, path: str, target: str) -> None:
    answer = client.get(path)

    assert (answer.status_code, answer["Location"]) == (302, target)
    assert client.post(path).status_code == 405


def test_the_answers_are_safe_to_show(client: Client) -> None:
    answer = client.get("/api/ping")

    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["X-Frame-Options"] == "DENY"
    assert answer["Referrer-Policy"] == "same-origin"


def test_a_foreign_host_is_refused(client: Client) -> None:
    answer = client.get("/api/ping", headers={"host": "evil.example"})

    assert (answer.status_code, answer.json()["code"]) == (400, "request.malformed")


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/api/projects", "/api/projects/create"])
@pytest.mark.parametrize(
    ("content_type", "body", "status", "code"),
    [
        ("multipart/form-data; boundary=b", b"--b--\r\n", 400, "request.malformed"),
        ("multipart/form-data", b"no boundary", 400, "request.malformed"),
        ("application/json", b'"' + b"x" * 3_000_000 + b'"', 413, "request.too_large"),
    ],
    ids=["a form", "a form without boundary", "too large"],
)
def test_a_body_that_no_endpoint_takes_is_refused_as_json(
    path: str, content_type: str, body: bytes, status: int, code: str
) -> None:
    client = Client(enforce_csrf_checks=True)
    client.get("/admin/login/")
    client.force_login(User.objects.create_user(email="a@example.com", password="pass"))
    token = client.cookies["csrftoken"].value

    answer = client.post(path, data=body, content_type=content_type, headers={"x-csrftoken": token})

    assert answer["Content-Type"].startswith("application/json")
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_the_urlconf_loads_whole() -> None:
    assert get_resolver().reverse_dict
