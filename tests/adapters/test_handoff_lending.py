"""A thread is lent to a request that needs one, and comes back whatever happens."""

import asyncio
import gc
import os
import threading
import weakref
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.http import HttpResponse, StreamingHttpResponse

from asgi_health.adapters.django.handler import Handler
from asgi_health.adapters.django.lending import Lent
from asgi_health.adapters.django.threads import Threads
from tests.adapters.handoff_parity import make_middleware
from tests.adapters.handoff_site import LIMIT_S, Exchange, Site, ask, until
from tests.adapters.test_handoff_parity import PURE


async def idle(handler: Handler) -> None:
    await until(lambda: handler.threads.lent == 0)


async def test_an_async_view_below_pure_middlewares_needs_no_thread(site: Site) -> None:
    async def view(_request: Any) -> Any:
        return HttpResponse(threading.current_thread().name)

    site.view(view)
    for path in PURE:
        site.middleware(path)
    with site.open():
        handler = Handler()
        answer = await ask(handler, "/view")
    assert (answer.status, answer.body.decode()) == (200, threading.current_thread().name)
    assert handler.threads._counted == 0


async def test_requests_one_after_the_other_share_one_thread(site: Site) -> None:
    site.view(lambda _request: HttpResponse(str(threading.get_ident())), route="")
    with site.open():
        handler = Handler(threads=3)
        found = set()
        for _ in range(5):
            found.add((await ask(handler)).body)
            await idle(handler)
    assert len(found) == 1
    assert found != {str(threading.get_ident()).encode()}
    assert handler.threads._counted == 1


async def test_all_synchronous_code_of_a_request_runs_on_its_thread(site: Site) -> None:
    def ident(*_args: Any) -> None:
        site.note(threading.get_ident())

    hooks = dict.fromkeys(("process_request", "process_view", "process_response"), ident)
    site.middleware(make_middleware(Site(), "mixin", "mixin", hooks))
    site.middleware(make_middleware(Site(), "class", "class", hooks))

    async def view(_request: Any) -> Any:
        await sync_to_async(ident)()
        return HttpResponse()

    site.view(view)
    with site.open():
        await ask(Handler(), "/view")
    assert len(site.calls) == 7
    assert len(set(site.calls)) == 1


async def fail(_request: Any) -> Any:
    await sync_to_async(int)()
    raise ValueError("view")


async def cancel(_request: Any) -> Any:
    await sync_to_async(int)()
    raise asyncio.CancelledError


def raise_before_answer(_request: Any) -> Any:
    response = HttpResponse()
    del response.status_code
    return response


@pytest.mark.parametrize("view", [fail, cancel, raise_before_answer])
async def test_the_thread_comes_back_after_a_request_that_failed(view: Any, site: Site) -> None:
    site.view(view, route="view")
    site.view(lambda _request: HttpResponse("ok"), route="ok")
    with site.open():
        handler = Handler(threads=1)
        exchange = Exchange("/view").start(handler)
        await asyncio.wait([exchange.task], timeout=LIMIT_S)  # type: ignore[type-var]
        assert exchange.task.done()  # type: ignore[union-attr]
        if not exchange.task.cancelled():  # type: ignore[union-attr]
            exchange.task.exception()  # type: ignore[union-attr]
        assert (await ask(handler, "/ok")).body == b"ok"
        await idle(handler)
    assert handler.threads._counted == 1


class Gate:
    """A synchronous view that stays until it is let go."""

    def __init__(self) -> None:
        self.inside = 0
        self.most = 0
        self.go = threading.Event()
        self._lock = threading.Lock()

    def __call__(self, _request: Any) -> Any:
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        assert self.go.wait(LIMIT_S)
        with self._lock:
            self.inside -= 1
        return HttpResponse("ok")


async def test_synchronous_views_run_at_once_up_to_the_limit_and_async_ones_do_not_wait(
    site: Site,
) -> None:
    gate = site.view(Gate(), route="gate")

    async def free(_request: Any) -> Any:
        return HttpResponse("free")

    site.view(free)
    with site.open():
        handler = Handler(threads=8)
        exchanges = [Exchange("/gate").start(handler) for _ in range(200)]
        await until(lambda: gate.inside == 8 and handler.threads.waiting == 192)
        assert handler.threads.lent == 8
        assert (await ask(handler, "/free")).body == b"free"
        gate.go.set()
        for exchange in exchanges:
            assert (await exchange.end()).body == b"ok"
        await idle(handler)
    assert (gate.most, handler.threads.waiting, handler.threads._counted) == (8, 0, 8)


@pytest.mark.parametrize("how", ["left", "cancel"])
async def test_who_leaves_while_waiting_for_a_thread_gives_up_its_place(
    how: str, site: Site
) -> None:
    gate = site.view(Gate(), route="gate")
    site.view(lambda _request: site.note("ran") or HttpResponse(), route="other")
    with site.open():
        handler = Handler(threads=1)
        first = Exchange("/gate").start(handler)
        await until(lambda: gate.inside == 1)
        second = Exchange("/other").start(handler)
        await until(lambda: handler.threads.waiting == 1 and second.read.is_set())
        if how == "left":
            second.left.set()
        else:
            second.task.cancel()  # type: ignore[union-attr]
        await asyncio.wait([second.task], timeout=LIMIT_S)  # type: ignore[type-var]
        assert second.task.cancelled() == (how == "cancel")  # type: ignore[union-attr]
        assert (gate.inside, handler.threads.waiting) == (1, 0)
        gate.go.set()
        await first.end()
        await idle(handler)
        assert (await ask(handler, "/other")).status == 200
    assert second.sent == []
    assert site.calls == [("ran",)]
    assert handler.threads._counted == 1


async def test_a_view_that_gives_up_waiting_for_a_thread_is_answered_and_finished(
    site: Site,
) -> None:
    gate = site.view(Gate(), route="gate")

    async def impatient(request: Any) -> Any:
        try:
            async with asyncio.timeout(0):
                await sync_to_async(site.note)("ran")
        except TimeoutError:
            site.note("gave up")
        request._stream.close = lambda: site.note("closed")
        return HttpResponse("ok")

    site.view(impatient)
    with site.open():
        handler = Handler(threads=1)
        first = Exchange("/gate").start(handler)
        await until(lambda: gate.inside == 1)
        answer = await ask(handler, "/impatient")
        assert handler.threads.waiting == 0
        gate.go.set()
        await first.end()
        await idle(handler)
    assert answer.body == b"ok"
    assert site.calls[:2] == [("gave up",), ("closed",)]
    assert ("ran",) not in site.calls


async def test_a_thread_begins_even_if_the_first_call_was_given_up(site: Site) -> None:
    begun: list[str] = []
    threads = Threads(limit=1)
    blocking = Lent(threads)
    go = threading.Event()
    blocking.submit(go.wait, LIMIT_S)
    lent = Lent(threads, on_begin=lambda: begun.append("begun"))
    first, second = lent.submit(begun.append, "first"), lent.submit(begun.append, "second")
    assert first.cancel()
    go.set()
    blocking.give_back()
    second.result(LIMIT_S)
    lent.give_back().result(LIMIT_S)  # type: ignore[union-attr]
    assert begun == ["begun", "second"]


def test_a_request_that_is_over_while_others_wait_for_its_calls_has_them_done() -> None:
    threads = Threads(limit=1)
    blocking, lent, order = Lent(threads), Lent(threads), []
    go = threading.Event()
    blocking.submit(go.wait, LIMIT_S)
    work = lent.submit(order.append, "work")
    ended = lent.give_back(after=lambda: order.append("after"))
    assert (threads.lent, threads.waiting) == (1, 1)
    go.set()
    blocking.give_back()
    assert ended is not None
    ended.result(LIMIT_S)
    assert work.done()
    assert order == ["work", "after"]
    assert (threads.lent, threads.waiting) == (0, 0)
    with pytest.raises(RuntimeError, match="The request is over"):
        lent.submit(int)


def test_the_thread_comes_back_when_ending_raises(caplog: pytest.LogCaptureFixture) -> None:
    threads = Threads(limit=1)
    lent = Lent(threads)
    lent.submit(int).result(LIMIT_S)

    def fail() -> None:
        raise ValueError("closing")

    lent.give_back(after=fail).result(LIMIT_S)  # type: ignore[union-attr]
    assert threads.lent == 0
    assert [record.getMessage() for record in caplog.records] == ["closing a response failed"]


async def test_a_task_that_outlives_its_request_can_still_call_synchronous_code(
    site: Site,
) -> None:
    tasks: list[asyncio.Task[Any]] = []
    has_run, over = asyncio.Event(), asyncio.Event()

    async def later() -> int:
        before = await sync_to_async(threading.get_ident)()
        has_run.set()
        await over.wait()
        return int(before != await sync_to_async(threading.get_ident)())

    async def view(_request: Any) -> Any:
        tasks.append(asyncio.get_running_loop().create_task(later()))
        await has_run.wait()
        return HttpResponse()

    site.view(view)
    with site.open():
        handler = Handler(threads=1)
        await ask(handler, "/view")
        await idle(handler)
        over.set()
        async with asyncio.timeout(LIMIT_S):
            assert await tasks[0] == 1
    assert handler.threads.lent == 0


class Token:
    """Something that a request holds."""


@pytest.mark.parametrize("is_async", [False, True])
async def test_an_idle_thread_keeps_nothing_of_a_request_alive(is_async: bool, site: Site) -> None:  # noqa: FBT001
    alive: list[weakref.ref[Any]] = []

    def view(request: Any) -> Any:
        request.token = Token()
        alive.extend([weakref.ref(request), weakref.ref(request.token)])
        return HttpResponse()

    async def aview(request: Any) -> Any:
        return await sync_to_async(view)(request)

    site.view(aview if is_async else view, route="view")
    site.middleware(make_middleware(Site(), "x", "mixin", {"process_request": lambda _r: None}))
    with site.open():
        handler = Handler()
        await ask(handler, "/view")
        await idle(handler)

        def is_gone() -> bool:
            gc.collect()
            return [ref() for ref in alive] == [None, None]

        await until(is_gone)


async def test_a_stream_does_not_keep_others_from_a_thread(site: Site) -> None:
    end = asyncio.Event()

    async def parts() -> Any:
        yield await sync_to_async(lambda: b"%d " % threading.get_ident())()
        await end.wait()
        yield await sync_to_async(lambda: b"%d" % threading.get_ident())()

    def stream(_request: Any) -> Any:
        return StreamingHttpResponse(parts(), headers={"x": str(threading.get_ident())})

    site.view(stream)
    site.view(lambda _request: HttpResponse("ok"), route="ok")
    with site.open():
        handler = Handler(threads=1)
        streams = [Exchange("/stream").start(handler) for _ in range(3)]
        await until(lambda: all(len(s.sent) == 2 for s in streams))
        assert handler.threads.lent == 3
        assert (await ask(handler, "/ok")).body == b"ok"
        end.set()
        for exchange in streams:
            await exchange.end()
            own = dict(exchange.headers)[b"x"]
            assert exchange.body.split() == [own, own]
        await idle(handler)
    assert handler.threads._counted == 1


async def test_one_who_waits_gets_a_thread_when_a_stream_begins(site: Site) -> None:
    start, end = threading.Event(), asyncio.Event()

    async def parts() -> Any:
        await end.wait()
        yield b"end"

    def stream(_request: Any) -> Any:
        assert start.wait(LIMIT_S)
        return StreamingHttpResponse(parts())

    site.view(stream)
    site.view(lambda _request: HttpResponse("ok"), route="ok")
    with site.open():
        handler = Handler(threads=1)
        first = Exchange("/stream").start(handler)
        await until(lambda: handler.threads.lent == 1)
        second = Exchange("/ok").start(handler)
        await until(lambda: handler.threads.waiting == 1)
        start.set()
        assert (await second.end()).body == b"ok"
        end.set()
        assert (await first.end()).body == b"end"
        await idle(handler)


def test_a_surplus_thread_ends_and_so_do_all_when_the_pool_is_gone() -> None:
    retired: list[int] = []
    threads = Threads(limit=1, on_retire=lambda: retired.append(threading.get_ident()))
    idents, borrowed = [], []
    for _ in range(3):
        lent = Lent(threads)
        lent.go_beyond_limit()
        idents.append(lent.submit(threading.get_ident).result(LIMIT_S))
        borrowed.append(lent)
    for lent in borrowed:
        lent.give_back().result(LIMIT_S)  # type: ignore[union-attr]
    assert threads.lent == 0
    alive = [t for t in threading.enumerate() if t.ident in idents]
    del threads, lent, borrowed
    for thread in alive:
        thread.join(LIMIT_S)
        assert not thread.is_alive()
    assert sorted(retired) == sorted(idents)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_makes_threads_of_its_own() -> None:
    threads = Threads(limit=1)
    lent = Lent(threads)
    lent.submit(int).result(LIMIT_S)
    lent.give_back().result(LIMIT_S)  # type: ignore[union-attr]
    threads._lock.acquire()  # as if another thread held it just now
    child = os.fork()
    if child == 0:
        own = Lent(threads)
        found = own.submit(int, 7).result(LIMIT_S)
        own.give_back().result(LIMIT_S)  # type: ignore[union-attr]
        os._exit(found if (threads.lent, threads._counted) == (0, 1) else 1)
    threads._lock.release()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
