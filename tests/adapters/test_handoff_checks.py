"""System checks name what costs threads; a middleware is pure only if somebody said so."""

import threading
from collections.abc import Iterator
from typing import Any

import django
import pytest
from django.conf import settings
from django.contrib.messages.storage.cookie import CookieStorage
from django.core import checks, signals
from django.http import HttpResponse
from django.middleware.common import CommonMiddleware
from django.middleware.csrf import CsrfViewMiddleware
from django.test import override_settings
from django.utils.decorators import async_only_middleware, sync_and_async_middleware
from django.utils.deprecation import MiddlewareMixin

from asgi_health.adapters.django.checks import check_handoff
from asgi_health.adapters.django.handler import Handler
from asgi_health.adapters.django.pure import is_declared
from tests.adapters.handoff_site import Site, ask
from tests.adapters.test_handoff_parity import PURE
from tests.adapters.test_handoff_switches import python


def ids() -> list[str]:
    return [str(found.id).removeprefix("asgi_health.") for found in check_handoff()]


class Hooks(MiddlewareMixin):
    """Unknown, with hooks."""

    def process_request(self, request: Any) -> None:
        request.seen_by = threading.get_ident()


class Declared(Hooks):
    """Says that it is pure."""

    async_inline = True


class Heir(Declared):
    """Says nothing itself."""


class Common(CommonMiddleware):
    """A subclass of a pure one."""


class Csrf(CsrfViewMiddleware):
    """The same."""


class SyncHooks(Hooks):
    """Not async-capable, but made of hooks."""

    async_capable = False


class ViewHook(MiddlewareMixin):
    """Costs nothing around the view."""

    def process_view(self, *_args: Any) -> None:
        """Do nothing."""


class Old:
    """Synchronous only."""

    def __init__(self, get_response: Any) -> None:
        """Keep nothing."""


def sync_only(get_response: Any) -> Any:
    return get_response


@sync_and_async_middleware
def both_ways(get_response: Any) -> Any:
    return get_response


@async_only_middleware
def async_only(get_response: Any) -> Any:
    return get_response


@pytest.mark.parametrize(
    ("factory", "expected"),
    [
        (Hooks, ["W003"]),
        (Heir, ["W003"]),
        (Common, ["W003"]),
        (Csrf, ["W003"]),
        (SyncHooks, ["W003"]),
        (Old, ["W002"]),
        (sync_only, ["W002"]),
        (Declared, []),
        (ViewHook, []),
        (both_ways, []),
        (async_only, []),
        *((path, []) for path in PURE),
        ("no.such.middleware", []),
        ("corsheaders.middleware.CorsMiddleware", []),
    ],
)
def test_a_middleware_that_costs_a_thread_is_named(
    factory: Any, expected: list[str], site: Site
) -> None:
    site.middleware(factory)
    with site.open():
        found = check_handoff()
        assert [str(w.id).removeprefix("asgi_health.") for w in found] == expected
        assert all(settings.MIDDLEWARE[0] in w.msg and w.hint for w in found)


def test_csrf_tokens_in_sessions_are_not_pure() -> None:
    with override_settings(MIDDLEWARE=[PURE[6]], CSRF_USE_SESSIONS=True):
        assert ids() == ["W003"]


def test_the_setting_declares_a_middleware_of_others(site: Site) -> None:
    site.middleware(Hooks)
    name = f"{Hooks.__module__}.{Hooks.__qualname__}"
    with site.open(ASGI_HEALTH_INLINE_MIDDLEWARE=[name]):
        assert ids() == []
        assert is_declared(Hooks)
        assert not is_declared(Heir)


def test_an_untested_django_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with override_settings(MIDDLEWARE=[]):
        assert ids() == []
        monkeypatch.setattr(django, "VERSION", (6, 2, 0, "final", 0))
        assert ids() == ["W001"]


@pytest.fixture
def receive() -> Iterator[Any]:
    """Connect a receiver to both signals until the test is over."""
    made: list[Any] = []

    def connect(receiver: Any) -> None:
        made.append(receiver)
        for signal in (signals.request_started, signals.request_finished):
            signal.connect(receiver)

    yield connect
    for receiver in made:
        for signal in (signals.request_started, signals.request_finished):
            signal.disconnect(receiver)


def test_receivers_that_cost_a_thread_are_named(receive: Any) -> None:
    async def cheap(**_rest: Any) -> None:
        """Cost no thread."""

    def dear(**_rest: Any) -> None:
        """Cost one."""

    with override_settings(MIDDLEWARE=[]):
        receive(cheap)
        assert ids() == []
        receive(dear)
        found = check_handoff()
    assert ids()[-2:] == [str(w.id).removeprefix("asgi_health.") for w in found] == ["W004"] * 2
    assert [w.msg.split()[0] for w in found] == ["request_started", "request_finished"]
    assert all("dear" in w.msg and "cheap" not in w.msg for w in found)


def test_this_project_runs_the_checks_and_gets_no_warning() -> None:
    assert check_handoff in checks.registry.registry.registered_checks
    assert ids() == []


def test_the_checks_run_where_the_app_is_installed() -> None:
    code = (
        "import json, django\nfrom django.conf import settings\n"
        "settings.configure(INSTALLED_APPS=['asgi_health.adapters.django'], USE_TZ=True,\n"
        "    MIDDLEWARE=['django.middleware.cache.UpdateCacheMiddleware'])\n"
        "django.setup()\nfrom django.core import checks\n"
        "print(json.dumps([w.id for w in checks.run_checks()]))"
    )
    assert python(code) == ["asgi_health.W003"]


@pytest.mark.parametrize(
    ("factory", "is_inline"), [(Hooks, False), (Declared, True), (Heir, False), (SyncHooks, False)]
)
async def test_only_what_is_declared_runs_in_the_loop(
    factory: Any,
    is_inline: bool,  # noqa: FBT001
    site: Site,
) -> None:
    async def view(request: Any) -> Any:
        return HttpResponse(str(request.seen_by == threading.get_ident()))

    site.middleware(factory)
    site.view(view)
    with site.open():
        assert (await ask(Handler(), "/view")).body == str(is_inline).encode()


async def test_a_declared_hook_around_the_view_runs_in_the_loop(site: Site) -> None:
    class Inline(MiddlewareMixin):
        async_inline = True

        def process_view(self, *_args: Any) -> None:
            site.note(threading.get_ident())

    async def view(_request: Any) -> Any:
        return HttpResponse()

    site.middleware(Inline)
    site.view(view)
    with site.open():
        handler = Handler()
        await ask(handler, "/view", method="POST")
    assert site.calls == [(threading.get_ident(),)]
    assert handler.threads._counted == 0


async def test_a_declared_asynchronous_hook_is_awaited(site: Site) -> None:
    class Inline(MiddlewareMixin):
        async_inline = True

        async def process_view(self, *_args: Any) -> None:
            site.note("hook")

    async def view(_request: Any) -> Any:
        return HttpResponse()

    site.middleware(Inline)
    site.view(view)
    with site.open():
        assert (await ask(Handler(), "/view")).status == 200
    assert site.calls == [("hook",)]


class Storage(CookieStorage):
    """Does more than Django's at the end of each request."""

    def update(self, response: Any) -> Any:
        response["x-thread"] = str(threading.get_ident())
        return super().update(response)


async def test_a_message_storage_of_the_projects_own_runs_on_the_thread(site: Site) -> None:
    async def view(_request: Any) -> Any:
        return HttpResponse()

    site.middleware(PURE[3])
    site.middleware(PURE[8])
    site.view(view)
    with site.open(MESSAGE_STORAGE=f"{__name__}.Storage"):
        answer = await ask(Handler(), "/view")
    assert dict(answer.headers)[b"x-thread"] != b"%d" % threading.get_ident()


@pytest.mark.parametrize(("method", "is_inline"), [("GET", True), ("POST", False)])
async def test_a_form_is_read_on_the_thread_for_its_csrf_token(
    method: str,
    is_inline: bool,  # noqa: FBT001
    site: Site,
) -> None:
    async def view(_request: Any) -> Any:
        return HttpResponse()

    site.middleware(PURE[6])
    site.view(view)
    headers = [
        (b"host", b"shop.example"),
        (b"cookie", b"csrftoken=" + b"a" * 32),
        (b"content-type", b"application/x-www-form-urlencoded"),
    ]
    with site.open():
        handler = Handler()
        body = b"csrfmiddlewaretoken=" + b"a" * 32
        answer = await ask(handler, "/view", method=method, headers=headers, pieces=[body])
    assert answer.status == 200
    assert (handler.threads._counted == 0) == is_inline


@pytest.mark.parametrize("is_touched", [False, True])
async def test_a_session_costs_a_thread_only_when_it_is_saved(
    is_touched: bool,  # noqa: FBT001
    site: Site,
) -> None:
    async def view(request: Any) -> Any:
        if is_touched:
            await request.session.aset("n", 1)
        return HttpResponse()

    site.middleware(PURE[3])
    site.view(view)
    with site.open():
        handler = Handler()
        answer = await ask(handler, "/view")
    assert (b"Set-Cookie" in dict(answer.headers)) == is_touched
    assert handler.threads._counted == 0 or is_touched
    assert handler.threads._counted <= 1
