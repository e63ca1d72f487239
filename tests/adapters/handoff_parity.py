"""Run the same site with Django's handler and with ours, and write down all that can be seen."""

import asyncio
import gzip
import logging
import re
import warnings
from collections.abc import Callable
from typing import Any

from django.core import signals
from django.core.cache import cache
from django.core.handlers.asgi import ASGIHandler
from django.utils.deprecation import MiddlewareMixin

from asgi_health.adapters.django.handler import Handler
from tests.adapters.handoff_site import Exchange, Site, until

_RANDOM = re.compile(rb"(csrftoken=|sessionid=|messages=)[^;]+|expires=[^;]+", re.ASCII)
_MASKED = re.compile(rb'value="[^"]{20,}"')


async def both(build: Callable[[Site], Any], **settings: Any) -> tuple[Any, Any]:
    """What stock shows of a site, and what ours does; `build` fills it and returns requests."""
    return await observe(ASGIHandler, build, **settings), await observe(Handler, build, **settings)


async def observe(
    kind: type[ASGIHandler],
    build: Callable[[Site], Any],
    *,
    with_receivers: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Answers, calls, log records and signals of the requests that `build` returns."""
    site, records = Site(), _Records()
    answers: list[Any] = []
    requests = build(site)
    cache.clear()
    disconnect = _connect(site, with_receivers=with_receivers)
    logging.getLogger("django").addHandler(records)
    try:
        with site.open(**settings), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "StreamingHttpResponse must consume synchronous")
            handler = site.serve(kind)
            answers += [await _answer(handler, request) for request in requests]
            if isinstance(handler, Handler):  # it closes what nobody waits for a little later
                await until(lambda: handler.threads.lent == 0)
    finally:
        logging.getLogger("django").removeHandler(records)
        disconnect()
    return {"answers": answers, "calls": site.calls, "records": records.texts}


async def _answer(handler: Any, request: dict[str, Any]) -> Any:
    exchange = Exchange(**request).start(handler)
    try:
        await exchange.end()
    except TimeoutError:
        raise
    except Exception as error:  # noqa: BLE001 - part of what is compared
        return type(error).__name__, str(error), [_normal(m) for m in exchange.sent]
    return _visible(exchange)


def _visible(exchange: Exchange) -> Any:
    headers, body = exchange.headers, exchange.body
    if (b"Content-Encoding", b"gzip") in headers:
        body = gzip.decompress(body)
        headers = [(n, b"?" if n == b"Content-Length" else v) for n, v in headers]
    shape = [(m["type"], bool(m.get("more_body"))) for m in exchange.sent]
    is_single = len(shape) == 2
    normal = [(n, b"?" if n == b"ETag" else _RANDOM.sub(rb"\1?", v)) for n, v in headers]
    return (
        exchange.status,
        normal,
        _MASKED.sub(b"?", body),
        shape if is_single else shape[-1],
    )


def _normal(message: dict[str, Any]) -> Any:
    return message["type"], message.get("status")


class _Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(f"{record.name} {record.levelname} {record.getMessage()}")


def _connect(site: Site, *, with_receivers: bool) -> Callable[[], None]:
    """Note the signals; two of them only if asked, as their receivers change ways."""

    def failed(sender: Any, **_rest: Any) -> None:
        site.note("got_request_exception", sender)

    def started(sender: Any, **rest: Any) -> None:
        site.note("request_started", sender.__name__, sorted(rest))

    async def afinished(sender: Any, **_rest: Any) -> None:
        site.note("request_finished, async", sender.__name__)

    def finished(sender: Any, **_rest: Any) -> None:
        site.note("request_finished", sender.__name__)

    signals.got_request_exception.connect(failed)
    if with_receivers:
        signals.request_started.connect(started)
        signals.request_finished.connect(finished)
        signals.request_finished.connect(afinished)

    def disconnect() -> None:
        signals.got_request_exception.disconnect(failed)
        signals.request_started.disconnect(started)
        signals.request_finished.disconnect(finished)
        signals.request_finished.disconnect(afinished)

    return disconnect


HOOKS = ("process_request", "process_view", "process_template_response", "process_response")
SHAPES = ("mixin", "sync", "async", "both", "class", "sync mixin", "async hook", "inline")
Acts = dict[str, Callable[..., Any]]


def make_middleware(site: Site, name: str, shape: str, acts: Acts) -> Any:
    """A middleware of a shape that notes its calls; `acts` says what else it does at a hook."""

    def at(hook: str, *args: Any) -> Any:
        site.note(name, hook)
        return acts[hook](*args) if hook in acts else None

    if shape in {"mixin", "sync mixin", "inline", "async hook"}:
        members: dict[str, Any] = {
            "async_capable": shape != "sync mixin",
            "async_inline": shape == "inline",
        }
        for hook in acts:
            members[hook] = _hook(at, hook, is_async=shape == "async hook" and hook == HOOKS[1])
        return type(f"Mixin{name}", (MiddlewareMixin,), members)
    if shape == "class":
        return type(f"Class{name}", (_Called,), {"at": staticmethod(at)})
    return _function(at, shape)


def _hook(at: Any, hook: str, *, is_async: bool) -> Any:
    def call(_self: Any, *args: Any) -> Any:
        found = at(hook, *args)
        if found is None and hook in {"process_response", "process_template_response"}:
            return args[-1]
        return found

    async def acall(_self: Any, *args: Any) -> Any:
        await asyncio.sleep(0)
        return call(_self, *args)

    return acall if is_async else call


class _Called:
    """A synchronous class with a call of its own, and hooks."""

    at: Any

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    def __call__(self, request: Any) -> Any:
        response = self.at("process_request", request) or self.get_response(request)
        return self.at("process_response", request, response) or response

    def process_view(self, *args: Any) -> Any:
        return self.at("process_view", *args)

    def process_exception(self, *args: Any) -> Any:
        return self.at("process_exception", *args)


def _function(at: Any, shape: str) -> Any:
    def sync_factory(get_response: Any) -> Any:
        def middleware(request: Any) -> Any:
            response = at("process_request", request) or get_response(request)
            return at("process_response", request, response) or response

        return middleware

    def async_factory(get_response: Any) -> Any:
        async def middleware(request: Any) -> Any:
            response = at("process_request", request) or await get_response(request)
            return at("process_response", request, response) or response

        return middleware

    def factory(get_response: Any) -> Any:
        is_async = shape == "async" or asyncio.iscoroutinefunction(get_response)
        return (async_factory if is_async else sync_factory)(get_response)

    factory.sync_capable = shape != "async"  # type: ignore[attr-defined]
    factory.async_capable = shape != "sync"  # type: ignore[attr-defined]
    return factory
