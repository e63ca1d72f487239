"""What goes with a worker begins and ends with it, and never keeps it from serving."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from asgi_health.lifespan import InnerLifespan
from asgi_health.types import Receive, Scope, Send
from project.worker_life import WorkerLife

Begin = Callable[[], AbstractAsyncContextManager[None]]


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """Serve nothing."""


def noting(seen: list[str], name: str, *, fails_at: str = "") -> Begin:
    @asynccontextmanager
    async def live() -> AsyncIterator[None]:
        if fails_at == "begin":
            raise OSError(name)
        seen.append(f"begin {name}")
        try:
            yield
        finally:
            seen.append(f"end {name}")
            if fails_at == "end":
                raise OSError(name)

    return live


async def lived(*begin: Begin) -> None:
    life = InnerLifespan(WorkerLife(nothing, begin), state={})
    async with asyncio.timeout(10):
        await life.startup()
        assert await life.shutdown() is None


async def test_all_begin_in_order_and_end_in_the_reverse() -> None:
    seen: list[str] = []
    await lived(noting(seen, "a"), noting(seen, "b"))
    assert seen == ["begin a", "begin b", "end b", "end a"]


@pytest.mark.parametrize("fails_at", ["begin", "end"])
async def test_one_that_fails_is_told_and_takes_no_other_along(
    caplog: pytest.LogCaptureFixture, fails_at: str
) -> None:
    seen: list[str] = []
    await lived(noting(seen, "a"), noting(seen, "b", fails_at=fails_at), noting(seen, "c"))
    assert [one for one in seen if "b" not in one.split()] == [
        "begin a", "begin c", "end c", "end a",
    ]  # fmt: skip
    assert [record.name for record in caplog.records] == ["project.worker_life"]
    assert caplog.records[0].exc_info is not None
