"""A lent thread shows a request nothing of the one before; its connections last as they should."""

import contextvars
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from asgiref.local import Local
from asgiref.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
from django.contrib import messages
from django.db import connections, transaction
from django.http import HttpResponse, HttpResponseRedirect
from django.urls import get_script_prefix, get_urlconf, set_script_prefix, set_urlconf
from django.utils import timezone, translation

from asgi_health.adapters.django.handler import Handler
from tests.adapters.handoff_parity import make_middleware
from tests.adapters.handoff_site import Exchange, Site, ask, until

VARIABLE = contextvars.ContextVar("of_the_tests", default="clean")
LOCAL, CRITICAL = Local(), Local(thread_critical=True)
PURE_STATE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]


def dirty(request: Any) -> None:
    """Change all that Django and asgiref keep for the code that runs now."""
    translation.activate("ko")
    timezone.activate("America/Caracas")
    set_script_prefix("/elsewhere/")
    set_urlconf("nowhere.urls")
    VARIABLE.set("dirty")
    LOCAL.value = "dirty"


def look() -> str:
    """What of it can be seen."""
    return " ".join(
        (
            translation.get_language(),
            timezone.get_current_timezone_name(),
            get_script_prefix(),
            str(get_urlconf()).rsplit(".", 1)[-1].strip("'>"),
            VARIABLE.get(),
            getattr(LOCAL, "value", "clean"),
        )
    )


CLEAN = b"en Asia/Seoul / Urls clean clean"


def add(site: Site, name: str, act: Any) -> None:
    """A view of each kind."""

    async def aview(request: Any) -> Any:
        return act(request)

    async def hop(request: Any) -> Any:
        return await sync_to_async(act)(request)

    site.view(act, route=f"sync-{name}")
    site.view(aview, route=f"async-{name}")
    site.view(hop, route=f"hop-{name}")


@pytest.mark.parametrize("second", ["sync", "async", "hop"])
@pytest.mark.parametrize("first", ["sync", "async", "hop"])
async def test_nothing_set_in_one_request_is_seen_by_the_next(
    first: str, second: str, site: Site
) -> None:
    translation.activate("en")  # tests before this one may have left another
    add(site, "dirty", lambda request: dirty(request) or HttpResponse(look()))
    add(site, "look", lambda _request: HttpResponse(look()))
    with site.open():
        handler = Handler(threads=1)
        soiled = Exchange(f"/{first}-dirty")
        await handler(soiled.scope, soiled.receive, soiled.send)  # both in the same task
        await until(lambda: handler.threads.lent == 0)
        clean = Exchange(f"/{second}-look")
        await handler(clean.scope, clean.receive, clean.send)
    assert soiled.body != CLEAN
    assert clean.body == CLEAN


async def test_a_caller_sees_nothing_of_what_a_request_set(site: Site) -> None:
    translation.activate("en")  # tests before this one may have left another
    add(site, "dirty", lambda request: dirty(request) or HttpResponse())
    with site.open():
        handler = Handler()
        for kind in ("sync", "async", "hop"):
            exchange = Exchange(f"/{kind}-dirty")
            await handler(exchange.scope, exchange.receive, exchange.send)
            assert (VARIABLE.get(), translation.get_language()) == ("clean", "en")


async def test_what_a_middleware_sets_reaches_view_and_response_hooks(site: Site) -> None:
    def note(*_args: Any) -> None:
        site.note(look())

    site.middleware(make_middleware(Site(), "a", "mixin", {"process_response": note}))
    site.middleware("django.middleware.locale.LocaleMiddleware")
    site.middleware(make_middleware(Site(), "b", "mixin", {"process_request": note}))
    add(site, "look", lambda _request: HttpResponse(look()))
    headers = ((b"host", b"shop.example"), (b"accept-language", b"ko"))
    with site.open():
        for kind in ("sync", "async", "hop"):
            answer = await ask(Handler(), f"/{kind}-look", headers=headers)
            assert answer.body == CLEAN.replace(b"en", b"ko", 1)
            assert dict(answer.headers)[b"Content-Language"] == b"ko"
    assert set(site.calls) == {(CLEAN.replace(b"en", b"ko", 1).decode(),)}


async def test_what_is_kept_by_thread_stays_as_under_any_server_with_threads(site: Site) -> None:
    own = threading.local()

    def view(_request: Any) -> Any:
        own.count = CRITICAL.count = getattr(own, "count", 0) + 1
        return HttpResponse(f"{own.count} {CRITICAL.count}")

    site.view(view)
    with site.open():
        handler = Handler(threads=1)
        for expected in (b"1 1", b"2 2"):
            assert (await ask(handler, "/view")).body == expected
            await until(lambda: handler.threads.lent == 0)


async def test_messages_reach_the_next_page_of_their_own_visitor_only(site: Site) -> None:
    def add_message(request: Any) -> Any:
        messages.info(request, "saved")
        return HttpResponseRedirect("/")

    add(site, "add", add_message)
    add(site, "list", lambda r: HttpResponse(",".join(map(str, messages.get_messages(r)))))
    for path in PURE_STATE:
        site.middleware(path)
    with site.open():
        handler = Handler(threads=1)
        for kind in ("sync", "async", "hop"):
            added = await ask(handler, f"/{kind}-add")
            cookie = dict(added.headers)[b"Set-Cookie"].split(b";")[0]
            assert (await ask(handler, f"/{kind}-list")).body == b""
            headers = ((b"host", b"shop.example"), (b"cookie", cookie))
            assert (await ask(handler, f"/{kind}-list", headers=headers)).body == b"saved"


@pytest.fixture
def alias(tmp_path: Path, django_db_blocker: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A database in a file, so that closing closes; the settings of it can be changed."""
    made = connections.configure_settings(
        {
            "default": connections.settings["default"],
            "handoff": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": str(tmp_path / "db.sqlite3"),
            },
        }
    )
    monkeypatch.setitem(connections.settings, "handoff", made["handoff"])
    with django_db_blocker.unblock():
        yield made["handoff"]


def raw() -> Any:
    """The calling thread's database connection, opened if need be."""
    connection = connections["handoff"]
    connection.ensure_connection()
    return connection.connection


KEPT: list[Any] = []


def add_query(site: Site) -> None:
    KEPT.clear()

    def query(_request: Any) -> Any:
        connection = connections["handoff"]
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        KEPT.append(connection.connection)
        return HttpResponse(str(len(connection.queries_log)))

    add(site, "query", query)
    site.view(lambda _request: HttpResponse(str(connections["handoff"].connection)), route="open")


async def ask_in_turn(handler: Handler, *routes: str) -> list[bytes]:
    found = []
    for route in routes:
        found.append((await ask(handler, route)).body)
        await until(lambda: handler.threads.lent == 0)
    return found


@pytest.mark.parametrize("kind", ["sync", "hop"])
@pytest.mark.parametrize(("max_age", "is_kept"), [(0, False), (600, True), (None, True)])
async def test_a_connection_lasts_as_long_as_conn_max_age_says(
    max_age: int | None,
    is_kept: bool,  # noqa: FBT001
    kind: str,
    site: Site,
    alias: Any,
) -> None:
    alias["CONN_MAX_AGE"] = max_age
    add_query(site)
    with site.open():
        handler = Handler(threads=1)
        routes = [f"/{kind}-query", "/open", f"/{kind}-query"]
        _, shown, _ = await ask_in_turn(handler, *routes)
    assert (shown != b"None") == is_kept
    assert (KEPT[0] is KEPT[1]) == is_kept


async def test_a_connection_is_closed_although_the_answer_could_not_be_sent(
    site: Site, alias: Any
) -> None:
    add_query(site)

    async def fail(_message: Any) -> None:
        raise OSError("gone")

    with site.open():
        handler = Handler(threads=1)
        with pytest.raises(OSError, match="gone"):
            await Exchange("/sync-query", hold=fail).start(handler).end()
        assert handler.threads.lent == 0
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        KEPT[0].execute("SELECT 1")


async def test_a_connection_that_became_unusable_is_not_given_to_the_next_request(
    site: Site, alias: Any
) -> None:
    alias["CONN_MAX_AGE"] = None
    add_query(site)

    def spoil(_request: Any) -> Any:
        raw()
        connection = connections["handoff"]
        connection.errors_occurred = True
        connection.is_usable = lambda: False
        return HttpResponse()

    site.view(spoil)
    with site.open():
        await ask_in_turn(handler := Handler(threads=1), "/sync-query", "/spoil", "/sync-query")
    assert KEPT[0] is not KEPT[1]
    assert handler.threads._counted == 1


async def test_a_connection_left_in_the_wrong_mode_is_closed(site: Site, alias: Any) -> None:
    alias["CONN_MAX_AGE"] = None
    add_query(site)

    def leave(_request: Any) -> Any:
        raw()
        connections["handoff"].set_autocommit(False)
        return HttpResponse()

    site.view(leave)
    with site.open():
        await ask_in_turn(Handler(threads=1), "/sync-query", "/leave", "/sync-query")
    assert KEPT[0] is not KEPT[1]


async def test_the_query_log_starts_empty_with_each_request(site: Site, alias: Any) -> None:
    alias["CONN_MAX_AGE"] = None
    add_query(site)
    with site.open(DEBUG=True):
        routes = ["/sync-query", "/hop-query", "/sync-query"]
        assert await ask_in_turn(Handler(threads=1), *routes) == [b"1"] * 3


async def test_all_that_a_request_calls_sees_one_connection(site: Site, alias: Any) -> None:
    def note(*_args: Any) -> None:
        site.note(raw())

    async def anote() -> None:
        await sync_to_async(note)()

    hooks = dict.fromkeys(("process_request", "process_view", "process_response"), note)
    site.middleware(make_middleware(Site(), "mixin", "mixin", hooks))

    async def view(_request: Any) -> Any:
        await sync_to_async(note)()
        await sync_to_async(async_to_sync(anote))()
        async with ThreadSensitiveContext():
            await sync_to_async(note)()
        return HttpResponse()

    def sync_view(_request: Any) -> Any:
        note()
        async_to_sync(anote)()
        return HttpResponse()

    site.view(view)
    site.view(sync_view)
    with site.open():
        for route, calls in (("/view", 6), ("/sync_view", 5)):
            site.calls.clear()
            assert (await ask(Handler(), route)).status == 200
            assert len(site.calls) == calls
            assert len({id(connection) for (connection,) in site.calls}) == 1


@pytest.mark.parametrize("fails", [False, True])
async def test_atomic_requests_commits_or_rolls_back(fails: bool, site: Site, alias: Any) -> None:  # noqa: FBT001
    alias["ATOMIC_REQUESTS"] = True

    def write(_request: Any) -> Any:
        assert connections["handoff"].in_atomic_block
        with connections["handoff"].cursor() as cursor:
            cursor.execute("CREATE TABLE IF NOT EXISTS made (n int)")
            cursor.execute("INSERT INTO made VALUES (1)")
        if fails:
            raise ValueError("after writing")
        return HttpResponse()

    def count(_request: Any) -> Any:
        with connections["handoff"].cursor() as cursor:
            tables = "SELECT COUNT(*) FROM sqlite_master WHERE name = 'made'"
            return HttpResponse(str(cursor.execute(tables).fetchone()[0]))

    site.view(write)
    site.view(transaction.non_atomic_requests("handoff")(count), route="count")
    with site.open():
        handler = Handler(threads=1)
        assert (await ask(handler, "/write")).status == (500 if fails else 200)
        assert (await ask(handler, "/count")).body == (b"0" if fails else b"1")
