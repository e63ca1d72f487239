"""What is loaded behind the gate: static files, Django, and a warm-up that passes."""

import logging
from collections.abc import AsyncIterator

import httpx
import pytest
from asgiref.sync import sync_to_async
from django.contrib.staticfiles import finders
from django.test import AsyncClient

from apps.accounts.models import User
from asgi_health import LoadedApp
from asgi_health.warmup import send_warmup
from project import django_app
from project.env import Env, InvalidEnvironment
from project.security_headers import security_headers
from project.static_files import with_static_files


@pytest.fixture(scope="module")
def loaded() -> LoadedApp:
    return django_app.load()


@pytest.fixture
async def client(loaded: LoadedApp) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=loaded.app)
    base = "http://videoplanet.example"
    async with httpx.AsyncClient(transport=transport, base_url=base) as made:
        yield made


async def test_the_warm_up_passes(loaded: LoadedApp) -> None:
    assert loaded.warmup is not None
    assert loaded.warmup.statuses == {200}
    await send_warmup(loaded.app, loaded.warmup, state=None)


def test_a_wrong_environment_is_refused_before_django(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong() -> Env:
        return Env.read({"ENV_FILE": "/dev/null"})

    monkeypatch.setattr(django_app, "current", wrong)

    with pytest.raises(InvalidEnvironment, match="SECRET_KEY is missing"):
        django_app.load()


async def test_the_admin_login_page_and_all_its_static_files_are_served(
    client: httpx.AsyncClient,
) -> None:
    page = await client.get("/admin/login/")
    links = [part.partition('"')[0] for part in page.text.split('="')[1:]]
    files = [link for link in links if link.startswith("/static/")]

    assert page.status_code == 200
    assert "/static/admin/css/base.css" in files
    for file in files:
        assert (await client.get(file)).status_code == 200


async def test_a_static_file_is_cached_and_asked_for_again(client: httpx.AsyncClient) -> None:
    first = await client.get("/static/admin/css/base.css")
    again = await client.get(
        "/static/admin/css/base.css", headers={"if-none-match": first.headers["etag"]}
    )

    assert first.headers["content-type"].startswith("text/css")
    assert first.headers["cache-control"] == "max-age=300, public"
    assert first.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in first.headers
    assert "vary" not in first.headers or "cookie" not in first.headers["vary"].lower()
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("path", ["ninja/swagger-ui-bundle.js", "pages/page.css", "pages/icon.svg"])
async def test_static_files_of_every_app_are_served(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(f"/static/{path}")
    head = await client.head(f"/static/{path}")

    assert answer.status_code == 200
    assert answer.content
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(answer.content))


@pytest.mark.parametrize(
    "path",
    ["/static/nothing.css", "/static/", "/static/../manage.py", "/static/%2e%2e/manage.py",
     "/static/admin/../../manage.py", "/static//etc/passwd", "/static/a%00b", "/.env"],
)  # fmt: skip
async def test_nothing_else_is_served(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)

    assert answer.status_code in {400, 404}
    assert "execute_from_command_line" not in answer.text


async def test_a_static_file_takes_no_post(client: httpx.AsyncClient) -> None:
    assert (await client.post("/static/pages/page.css")).status_code == 405


async def test_with_debug_an_edit_shows_at_once(settings, tmp_path) -> None:
    static = tmp_path / "static"
    static.mkdir()
    file = static / "late.css"
    settings.DEBUG = True
    settings.STATICFILES_FINDERS = ["django.contrib.staticfiles.finders.FileSystemFinder"]
    settings.STATICFILES_DIRS = [static]
    finders.get_finder.cache_clear()
    (static / "there.css").write_text("first")
    app = with_static_files(None)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        file.write_text("a {}")
        made = await client.get("/static/late.css")
        file.write_text("b { color: red }")
        edited = await client.get("/static/late.css")
    finders.get_finder.cache_clear()

    assert (made.text, edited.text) == ("a {}", "b { color: red }")
    assert made.headers["cache-control"] == "max-age=0, public"


async def test_of_two_files_with_one_name_django_and_we_take_the_same(settings, tmp_path) -> None:
    for name in ("first", "second", "third"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "page.css").write_text(name)
    settings.STATICFILES_FINDERS = ["django.contrib.staticfiles.finders.FileSystemFinder"]
    settings.STATICFILES_DIRS = [
        tmp_path / "first",
        tmp_path / "second",
        ("below", tmp_path / "third"),
    ]
    finders.get_finder.cache_clear()
    transport = httpx.ASGITransport(app=with_static_files(None))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        top = await client.get("/static/page.css")
        below = await client.get("/static/below/page.css")
    found = finders.find("page.css")
    finders.get_finder.cache_clear()

    assert (top.text, below.text) == ("first", "third")
    assert found == str(tmp_path / "first" / "page.css")


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/", "/"),
        ("/api/ping", "/api/ping"),
        ("/api/ping/", "/api/ping/"),
        ("/admin/login/", "/admin/login/"),
        ("/static/pages/page.css", "/static/{file}"),
        ("/nothing/here", "unmatched"),
        ("/static", "unmatched"),
    ],
)
async def test_the_log_names_the_route_of_each_request(
    client: httpx.AsyncClient, path: str, route: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "project.access")

    answer = await client.get(path)

    [line] = [vars(record) for record in caplog.records if record.name == "project.access"]
    assert (line["route"], line["status"]) == (route, answer.status_code)


@pytest.mark.django_db(transaction=True)
async def test_the_log_names_who_is_logged_in_and_looks_nobody_up(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "project.access")
    user = await sync_to_async(User.objects.create_user)("a@example.org", "only for tests")
    session = AsyncClient()
    await session.aforce_login(user)
    client.cookies["sessionid"] = session.cookies["sessionid"].value

    await client.get("/api/projects")
    await client.get("/api/ping")

    lines = [vars(record) for record in caplog.records if record.name == "project.access"]
    assert [(line["route"], line.get("user_id")) for line in lines] == [
        ("/api/projects", user.pk),
        ("/api/ping", None),
    ]


@pytest.mark.parametrize(
    "path", ["/", "/api/ping", "/admin/login/", "/static/pages/page.css", "/x"]
)
async def test_every_answer_protects_the_browser(client: httpx.AsyncClient, path: str) -> None:
    headers = (await client.get(path)).headers

    assert headers["content-security-policy"].startswith("default-src ")
    assert "camera=()" in headers["permissions-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "same-origin"
    assert len(headers["x-request-id"]) > 16


def test_only_a_site_on_https_says_that_it_stays_there() -> None:
    secure = {"ENV_FILE": "/dev/null", "SECRET_KEY": "x", "HSTS_S": "60"}
    plain = secure | {"HTTPS_ONLY": "0"}

    found = security_headers(Env.read(secure))["Strict-Transport-Security"]
    assert found == "max-age=60; includeSubDomains; preload"
    assert "Strict-Transport-Security" not in security_headers(Env.read(plain))
    assert "Strict-Transport-Security" not in security_headers(Env.read(secure | {"HSTS_S": "0"}))
