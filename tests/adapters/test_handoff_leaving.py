"""The client leaves, or the server gives up: everybody hears of it, as with Django's handler."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.core import signals
from django.core.handlers.asgi import ASGIHandler
from django.db import connections
from django.http import HttpResponse, StreamingHttpResponse

from asgi_health.adapters.django.handler import Handler
from tests.adapters.handoff_site import LIMIT_S, Exchange, Site, ask, until

HANDLERS = [ASGIHandler, Handler]


async def wait_for(exchange: Exchange) -> Any:
    """How the server's task ended: its exception, `cancelled` or None."""
    assert exchange.task is not None
    await asyncio.wait([exchange.task], timeout=LIMIT_S)
    assert exchange.task.done()
    return "cancelled" if exchange.task.cancelled() else exchange.task.exception()


@pytest.fixture
def finished(site: Site, settled: None) -> Any:
    """Note the end of requests among the calls of the site."""

    def note(sender: Any, **_rest: Any) -> None:
        site.note("request_finished")

    signals.request_finished.connect(note)
    yield
    signals.request_finished.disconnect(note)


def add_waiting_view(site: Site, *, inside: asyncio.Event, ending: str = "raise") -> None:
    async def view(_request: Any) -> Any:
        try:
            inside.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            site.note("canceled")
            if ending == "raise":
                raise
            if ending == "fail":
                raise ValueError("after that") from None
        finally:
            site.note("finally")
        return HttpResponse("nevertheless")

    site.view(view)


@pytest.mark.parametrize("kind", HANDLERS)
@pytest.mark.parametrize("pieces", [[], [b"a"]])
async def test_a_client_that_leaves_while_it_sends_gets_nothing(
    pieces: list[bytes], kind: Any, site: Site, finished: Any
) -> None:
    site.view(lambda _request: site.note("view") or HttpResponse(), route="")
    with site.open():
        exchange = Exchange(method="POST", pieces=[*pieces, b"rest"])
        exchange._inbox.pop()
        assert await wait_for(exchange.start(site.serve(kind)).leave()) is None
    assert (exchange.sent, site.calls) == ([], [])


@pytest.mark.parametrize("kind", HANDLERS)
@pytest.mark.parametrize("ending", ["raise", "answer", "fail"])
async def test_leaving_cancels_an_async_view_and_the_request_ends(
    ending: str, kind: Any, site: Site, finished: Any
) -> None:
    inside = asyncio.Event()
    add_waiting_view(site, inside=inside, ending=ending)
    with site.open():
        exchange = Exchange("/view").start(site.serve(kind))
        await inside.wait()
        assert await wait_for(exchange.leave()) is None
        assert exchange.task.cancelling() == 0  # type: ignore[union-attr]
    assert site.calls == [("canceled",), ("finally",), ("request_finished",)]
    statuses = {"raise": [], "answer": [200], "fail": [500]}[ending]
    assert [m["status"] for m in exchange.sent if "status" in m] == statuses


async def test_the_server_cancels_a_view_and_learns_that_it_did(site: Site) -> None:
    inside = asyncio.Event()
    add_waiting_view(site, inside=inside)
    with site.open():
        handler = Handler()
        exchange = Exchange("/view").start(handler)
        await inside.wait()
        exchange.task.cancel()  # type: ignore[union-attr]
        assert await wait_for(exchange) == "cancelled"
        await until(lambda: handler.threads.lent == 0)
    assert site.calls == [("canceled",), ("finally",)]


async def test_a_time_limit_of_the_server_is_not_swallowed_while_sending(site: Site) -> None:
    site.view(lambda _request: HttpResponse("x"), route="")

    async def hold(_message: Any) -> None:
        limit.reschedule(asyncio.get_running_loop().time())
        await asyncio.Event().wait()

    with site.open():
        exchange = Exchange(hold=hold)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(LIMIT_S) as limit:
                await Handler()(exchange.scope, exchange.receive, exchange.send)
    assert len(exchange.sent) == 1


async def test_who_leaves_and_is_given_up_at_once_counts_as_given_up(site: Site) -> None:
    inside = asyncio.Event()
    add_waiting_view(site, inside=inside)

    async def leave_and_cancel() -> Any:
        exchange.task.cancel()  # type: ignore[union-attr]
        return {"type": "http.disconnect"}

    with site.open():
        exchange = Exchange("/view")
        first = exchange.receive

        async def receive() -> Any:
            return await (first() if exchange._inbox else leave_and_cancel())

        exchange.receive = receive  # type: ignore[method-assign]
        assert await wait_for(exchange.start(Handler())) == "cancelled"
    assert exchange.sent == []


@pytest.mark.parametrize("kind", HANDLERS)
async def test_leaving_during_a_synchronous_view_waits_for_it(
    kind: Any, site: Site, finished: Any
) -> None:
    inside, go = threading.Event(), threading.Event()

    def view(_request: Any) -> Any:
        inside.set()
        assert go.wait(LIMIT_S)
        site.note("view")
        return HttpResponse()

    site.view(view)
    with site.open():
        exchange = Exchange("/view").start(site.serve(kind))
        await until(lambda: inside.is_set() and exchange.read.is_set())
        exchange.left.set()
        await until(lambda: exchange.task.done() or True)  # type: ignore[union-attr]
        assert not exchange.task.done()  # type: ignore[union-attr]
        go.set()
        assert await wait_for(exchange) is None
    assert site.calls == [("view",), ("request_finished",)]
    assert exchange.sent == []


async def test_a_request_that_the_server_cancels_ends_with_its_synchronous_view(
    site: Site,
) -> None:
    inside, go = threading.Event(), threading.Event()

    def view(_request: Any) -> Any:
        inside.set()
        assert go.wait(LIMIT_S)
        return HttpResponse()

    site.view(view)
    with site.open():
        handler = Handler()
        exchange = Exchange("/view").start(handler)
        await until(inside.is_set)
        exchange.task.cancel()  # type: ignore[union-attr]
        await until(lambda: handler.threads.lent == 1)
        assert not exchange.task.done()  # type: ignore[union-attr]
        go.set()
        assert await wait_for(exchange) == "cancelled"
        assert handler.threads.lent == 0


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("how", ["left", "cancel"])
async def test_atomic_requests_ends_as_in_stock_when_the_client_leaves(
    how: str,
    fails: bool,  # noqa: FBT001
    tmp_path: Path,
    django_db_blocker: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = []
    for kind in HANDLERS:
        name = str(tmp_path / kind.__name__)
        made = connections.configure_settings(
            {
                "default": connections.settings["default"],
                "handoff": {
                    "ENGINE": "django.db.backends.sqlite3",
                    "NAME": name,
                    "ATOMIC_REQUESTS": True,
                },
            }
        )
        monkeypatch.setitem(connections.settings, "handoff", made["handoff"])
        with django_db_blocker.unblock():
            await write_and_leave(kind, how, fails=fails)
            found.append(await asyncio.to_thread(tables))
    assert found[0] == found[1] == ([] if fails else ["made"])


def tables() -> list[str]:
    with connections["handoff"].cursor() as cursor:
        rows = cursor.execute("SELECT name FROM sqlite_master").fetchall()
    connections["handoff"].close()
    return [name for (name,) in rows]


async def write_and_leave(kind: Any, how: str, *, fails: bool) -> None:
    site, inside, go = Site(), threading.Event(), threading.Event()

    def view(_request: Any) -> Any:
        with connections["handoff"].cursor() as cursor:
            cursor.execute("CREATE TABLE made (n int)")
            inside.set()
            assert go.wait(LIMIT_S)
        if fails:
            raise ValueError("after writing")
        return HttpResponse()

    site.view(view)
    with site.open():
        exchange = Exchange("/view").start(site.serve(kind))
        await until(lambda: inside.is_set() and exchange.read.is_set())
        if how == "left":
            exchange.left.set()
        else:
            exchange.task.cancel()  # type: ignore[union-attr]
        go.set()
        assert await wait_for(exchange) == (None if how == "left" else "cancelled")


@pytest.mark.parametrize("kind", HANDLERS)
async def test_leaving_while_an_async_stream_is_sent_ends_the_stream(
    kind: Any, site: Site, finished: Any
) -> None:
    async def parts() -> Any:
        try:
            yield b"one"
            await asyncio.Event().wait()
        finally:
            site.note("stream closed")

    async def view(_request: Any) -> Any:
        return StreamingHttpResponse(parts())

    site.view(view)
    with site.open():
        exchange = Exchange("/view").start(site.serve(kind))
        await until(lambda: len(exchange.sent) == 2)
        assert await wait_for(exchange.leave()) is None
    assert site.calls == [("stream closed",), ("request_finished",)]
    assert exchange.body == b"one"


async def test_leaving_while_a_synchronous_stream_is_sent_closes_it_on_its_thread(
    site: Site, finished: Any
) -> None:
    def parts() -> Any:
        try:
            while True:
                yield b"part"
        finally:
            site.note("stream closed", threading.get_ident())

    def view(_request: Any) -> Any:
        site.note("view", threading.get_ident())
        return StreamingHttpResponse(parts())

    site.view(view)
    with site.open():
        exchange = Exchange("/view").start(Handler())
        await until(lambda: len(exchange.sent) > 3)
        assert await wait_for(exchange.leave()) is None
    (_, thread), closed, finished_call = site.calls
    assert (closed, finished_call) == (("stream closed", thread), ("request_finished",))


@pytest.mark.parametrize("kind", HANDLERS)
async def test_a_client_that_left_after_the_answer_is_no_matter(
    kind: Any, site: Site, finished: Any
) -> None:
    async def view(_request: Any) -> Any:
        await asyncio.sleep(0)
        return HttpResponse("ok")

    site.view(view)
    with site.open():
        exchange = Exchange("/view")
        exchange._hold = lambda _message: exchange.leave_now()
        assert await wait_for(exchange.start(site.serve(kind))) is None
    assert site.calls[-1] == ("request_finished",)
    assert exchange.status == 200


@pytest.mark.parametrize("error", [OSError("connection lost"), None])
async def test_a_server_that_breaks_the_protocol_is_told(
    error: Exception | None, site: Site
) -> None:
    inside = asyncio.Event()
    add_waiting_view(site, inside=inside)
    with site.open():
        exchange = Exchange("/view")
        first = exchange.receive

        async def receive() -> Any:
            if exchange._inbox:
                return await first()
            await inside.wait()
            if error is not None:
                raise error
            return {"type": "http.request"}

        exchange.receive = receive  # type: ignore[method-assign]
        found = await wait_for(exchange.start(Handler()))
    if error is None:
        assert str(found) == "Invalid ASGI message after request body: http.request"
    else:
        assert found is error
    assert site.calls == [("canceled",), ("finally",)]


async def test_time_limits_groups_and_shields_work_in_async_views(site: Site) -> None:
    done = asyncio.Event()

    async def work() -> None:
        await asyncio.sleep(0)
        done.set()

    async def view(_request: Any) -> Any:
        task = asyncio.current_task()
        assert task is not None
        try:
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        except TimeoutError:
            site.note("time out")
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))
            group.create_task(sync_to_async(site.note)("in a group"))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.wait_for(asyncio.Event().wait(), 0))
                await asyncio.Event().wait()
        except* TimeoutError:
            site.note("group failed")
        await asyncio.shield(work())
        return HttpResponse(str(task.cancelling()))

    site.view(view)
    with site.open():
        exchange = await ask(Handler(), "/view")
    assert exchange.body == b"0"
    assert exchange.task.cancelling() == 0  # type: ignore[union-attr]
    assert site.calls == [("time out",), ("in a group",), ("group failed",)]
    assert done.is_set()


async def test_what_is_shielded_goes_on_when_the_client_leaves(site: Site) -> None:
    inside, go, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        inside.set()
        await go.wait()
        await sync_to_async(site.note)("done")
        done.set()

    async def view(_request: Any) -> Any:
        site.note(work_task := asyncio.ensure_future(work()))
        await asyncio.shield(work_task)
        return HttpResponse()

    site.view(view)
    with site.open():
        handler = Handler(threads=1)
        exchange = Exchange("/view").start(handler)
        await inside.wait()
        assert await wait_for(exchange.leave()) is None
        go.set()
        async with asyncio.timeout(LIMIT_S):
            await done.wait()
    assert site.calls[1:] == [("done",)]
    assert handler.threads.lent == 0
