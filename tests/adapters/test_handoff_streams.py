"""Bodies that come and go in parts."""

import asyncio
import io
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from django.core.handlers.asgi import ASGIHandler
from django.http import FileResponse, HttpResponse, StreamingHttpResponse

from asgi_health.adapters.django.handler import Handler
from tests.adapters.handoff_site import LIMIT_S, Exchange, Site, ask, until

HOST = (b"host", b"shop.example")


@pytest.mark.parametrize("is_async", [False, True])
async def test_the_next_part_is_not_made_before_the_last_one_is_sent(
    is_async: bool,  # noqa: FBT001
    site: Site,
) -> None:
    drained = asyncio.Semaphore(0)

    def parts() -> Any:
        for number in range(4):
            site.note(number)
            yield b"%d" % number

    async def aparts() -> Any:
        for part in parts():
            yield part

    site.view(lambda _request: StreamingHttpResponse(aparts() if is_async else parts()), route="")

    async def hold(message: Any) -> None:
        if message.get("body"):
            async with asyncio.timeout(LIMIT_S):
                await drained.acquire()

    with site.open():
        exchange = Exchange(hold=hold).start(Handler())
        for number in range(4):
            await until(lambda number=number: len(exchange.sent) == number + 2)
            assert site.calls == [(n,) for n in range(number + 1)]
            drained.release()
        await exchange.end()
    assert exchange.body == b"0123"
    assert exchange.sent[-1] == {"type": "http.response.body"}


async def test_a_synchronous_stream_is_made_on_the_thread_of_its_view(site: Site) -> None:
    def parts() -> Any:
        for _ in range(3):
            yield b"%d " % threading.get_ident()

    site.view(
        lambda _r: StreamingHttpResponse(parts(), headers={"x": str(threading.get_ident())}),
        route="",
    )
    with site.open():
        answer = await ask(Handler())
    assert answer.body.split() == [dict(answer.headers)[b"x"]] * 3


async def test_a_stream_that_fails_has_sent_what_came_before(site: Site) -> None:
    def parts() -> Any:
        yield b"one"
        raise OSError("disk")

    site.view(lambda _request: StreamingHttpResponse(parts()), route="")
    with site.open():
        handler = Handler()
        exchange = Exchange().start(handler)
        with pytest.raises(OSError, match="disk"):
            await exchange.end()
        await until(lambda: handler.threads.lent == 0)
    assert exchange.body == b"one"


async def test_a_file_is_sent_in_blocks_and_closed(site: Site, tmp_path: Path) -> None:
    content = bytes(range(256)) * 1000
    (tmp_path / "file.bin").write_bytes(content)
    opened: list[Any] = []

    def view(_request: Any) -> Any:
        opened.append((tmp_path / "file.bin").open("rb"))
        return FileResponse(opened[0])

    site.view(view)
    with site.open():
        answer = await ask(Handler(), "/view")
    assert answer.body == content
    assert dict(answer.headers)[b"Content-Length"] == b"256000"
    assert [len(m.get("body", b"")) for m in answer.sent[1:]] == [65536] * 3 + [59392, 0]
    assert opened[0].closed


async def test_a_file_object_of_the_projects_own_is_sent_as_well(site: Site) -> None:
    site.view(lambda _request: FileResponse(io.BytesIO(b"abc"), filename="a.txt"), route="")
    with site.open():
        assert (await ask(Handler())).body == b"abc"


class Part:
    """As much of an open file as a range asks for, for `FileResponse`."""

    def __init__(self, file: Any, size: int) -> None:
        self._file, self._left = file, size
        self.close = file.close

    def read(self, size: int) -> bytes:
        found: bytes = self._file.read(min(size, self._left))
        self._left -= len(found)
        return found


def add_ranges(site: Site, path: Path) -> list[Any]:
    """A view that answers `Range: bytes=FIRST-LAST` of a file, and the files that it opened."""
    opened: list[Any] = []

    def view(request: Any) -> Any:
        size = path.stat().st_size
        first, last = map(int, request.headers["Range"].removeprefix("bytes=").split("-"))
        if first >= size:
            return HttpResponse(status=416, headers={"Content-Range": f"bytes */{size}"})
        last = min(last, size - 1)
        opened.append(path.open("rb"))
        opened[-1].seek(first)
        shown = {
            "Content-Range": f"bytes {first}-{last}/{size}",
            "Content-Length": str(last - first + 1),
        }
        return FileResponse(Part(opened[-1], last - first + 1), status=206, headers=shown)

    site.view(view, route="")
    return opened


@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume:Warning")  # of stock
@pytest.mark.parametrize(
    ("first", "last", "status"),
    [(0, 0, 206), (5, 199_999, 206), (199_990, 500_000, 206), (200_000, 200_001, 416)],
)
async def test_a_part_of_a_file_is_answered_as_in_stock(
    first: int, last: int, status: int, site: Site, tmp_path: Path
) -> None:
    content = bytes(range(250)) * 800
    (tmp_path / "film.mp4").write_bytes(content)
    opened = add_ranges(site, tmp_path / "film.mp4")
    headers = [HOST, (b"range", b"bytes=%d-%d" % (first, last))]
    with site.open():
        ours, stock = [await ask(made, headers=headers) for made in (Handler(), ASGIHandler())]
    assert (ours.status, ours.headers, ours.body) == (stock.status, stock.headers, stock.body)
    assert ours.status == status
    assert ours.body == (content[first : last + 1] if status == 206 else b"")
    assert len(opened) == (2 if status == 206 else 0)
    assert all(file.closed for file in opened)


def add_upload(site: Site) -> None:
    def view(request: Any) -> Any:
        site.note(type(request._stream).__name__, getattr(request._stream, "_rolled", False))
        return HttpResponse(request.read())

    site.view(view)


LIMIT_BYTES = 100


@pytest.mark.parametrize(
    ("pieces", "kind", "is_on_disk"),
    [
        ([b""], "BytesIO", False),
        ([b"a" * LIMIT_BYTES], "SpooledTemporaryFile", False),
        ([b"a" * (LIMIT_BYTES + 1)], "SpooledTemporaryFile", True),
        ([b"a" * LIMIT_BYTES, b""], "SpooledTemporaryFile", False),
        ([b"a" * LIMIT_BYTES, b"b"], "SpooledTemporaryFile", True),
        ([b"a"] * LIMIT_BYTES, "SpooledTemporaryFile", False),
        ([b"a"] * (LIMIT_BYTES + 1), "SpooledTemporaryFile", True),
        ([b"", b"", b"x"], "SpooledTemporaryFile", False),
    ],
)
async def test_a_body_is_kept_in_memory_up_to_the_limit_and_on_disk_beyond(
    pieces: list[bytes],
    kind: str,
    is_on_disk: bool,  # noqa: FBT001
    site: Site,
) -> None:
    add_upload(site)
    with site.open(FILE_UPLOAD_MAX_MEMORY_SIZE=LIMIT_BYTES, DATA_UPLOAD_MAX_MEMORY_SIZE=None):
        answer = await ask(Handler(), "/view", method="POST", pieces=pieces)
    assert answer.body == b"".join(pieces)
    assert site.calls == [(kind, is_on_disk)]


async def test_a_large_body_is_not_written_by_the_loop(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    write = tempfile.SpooledTemporaryFile.write

    def noted(self: Any, data: bytes) -> Any:
        threads.append(threading.get_ident())
        return write(self, data)

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "write", noted)
    add_upload(site)
    with site.open(FILE_UPLOAD_MAX_MEMORY_SIZE=LIMIT_BYTES):
        pieces = [b"a" * LIMIT_BYTES, *[b"b" * 50] * 3]
        answer = await ask(Handler(), "/view", method="POST", pieces=pieces)
    assert answer.body == b"".join(pieces)
    assert threads[0] == threading.get_ident()
    assert len(threads) == 4
    assert threading.get_ident() not in threads[1:]


async def test_a_client_that_leaves_during_a_large_upload_leaves_no_file(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[bool] = []

    class Noted(tempfile.SpooledTemporaryFile):
        def close(self) -> None:
            super().close()
            closed.append(self.closed)

    monkeypatch.setattr(tempfile, "SpooledTemporaryFile", Noted)
    add_upload(site)
    with site.open(FILE_UPLOAD_MAX_MEMORY_SIZE=LIMIT_BYTES):
        exchange = Exchange("/view", method="POST", pieces=[b"a" * 200, b"rest"])
        exchange._inbox.pop()
        await exchange.leave().start(Handler()).end()
    assert exchange.sent == []
    assert closed == [True]


async def test_an_uploaded_file_arrives_and_is_closed_afterwards(site: Site) -> None:
    seen: list[Any] = []

    def view(request: Any) -> Any:
        seen.append(request.FILES["f"])
        return HttpResponse(f"{request.FILES['f'].size} {request.POST['n']}")

    async def aview(request: Any) -> Any:
        return view(request)

    site.view(view)
    site.view(aview)
    body = (
        b'--x\r\nContent-Disposition: form-data; name="n"\r\n\r\n1\r\n'
        b'--x\r\nContent-Disposition: form-data; name="f"; filename="f.bin"\r\n\r\n'
        + b"z" * 3000
        + b"\r\n--x--\r\n"
    )
    headers = [
        HOST,
        (b"content-type", b"multipart/form-data; boundary=x"),
        (b"content-length", b"%d" % len(body)),
    ]
    pieces = [body[i : i + 500] for i in range(0, len(body), 500)]
    with site.open(FILE_UPLOAD_MAX_MEMORY_SIZE=1000):
        handler = Handler()
        for route in ("/view", "/aview"):
            answer = await ask(handler, route, method="POST", headers=headers, pieces=pieces)
            assert answer.body == b"3000 1"
            assert seen.pop().file.closed  # as soon as the handler returns


async def test_a_body_that_is_too_large_for_django_is_refused(site: Site) -> None:
    site.view(lambda request: HttpResponse(request.body), route="view")
    headers = [HOST, (b"content-length", b"11")]
    with site.open(DATA_UPLOAD_MAX_MEMORY_SIZE=10):
        for size, status in ((10, 200), (11, 400)):
            headers[1] = (b"content-length", b"%d" % size)
            answer = await ask(
                Handler(), "/view", method="POST", headers=headers, pieces=[b"a" * size]
            )
            assert answer.status == status
