"""The server's side of ASGI, by hand: queues in, lists of messages out, every wait limited."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from asgi_health import HealthConfig, HealthGate

LIMIT_S = 20.0
"""Only a broken program waits this long; no test measures time by it."""

SECRET = "correct-horse-battery-staple-0123456789"  # made up
PUBLIC_CLIENT = ("192.0.2.7", 50000)


async def limited(awaitable: Awaitable[Any]) -> Any:
    """The result, or a failed test instead of a hung one."""
    async with asyncio.timeout(LIMIT_S):
        return await awaitable


async def settle(turns: int = 20) -> None:
    """Give every ready callback of the loop its turn."""
    for _ in range(turns):
        await asyncio.sleep(0)


class Lifespan:
    """The lifespan scope of one server run."""

    def __init__(self, app: Any, *, state: dict[str, Any] | None = None) -> None:
        self.scope: dict[str, Any] = {"type": "lifespan", "asgi": {"version": "3.0"}}
        if state is not None:
            self.scope["state"] = state
        self.sent: list[dict[str, Any]] = []
        self._to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._from_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.task = asyncio.create_task(app(self.scope, self._to_app.get, self._send))

    async def startup(self) -> dict[str, Any]:
        """Send the startup; its answer."""
        return await self._exchange("lifespan.startup")

    async def shutdown(self) -> dict[str, Any]:
        """Send the shutdown; its answer. The application has returned then."""
        answer = await self._exchange("lifespan.shutdown")
        await limited(self.task)
        return answer

    def ask(self, kind: str) -> None:
        """Send a message without waiting."""
        self._to_app.put_nowait({"type": kind})

    async def answer(self) -> dict[str, Any]:
        """The next answer."""
        return await limited(self._from_app.get())

    async def _exchange(self, kind: str) -> dict[str, Any]:
        self.ask(kind)
        answered = asyncio.create_task(self._from_app.get())
        await limited(asyncio.wait({answered, self.task}, return_when=asyncio.FIRST_COMPLETED))
        if not answered.done():
            await settle()
        if not answered.done():
            answered.cancel()
            self.task.result()
            raise AssertionError(f"no answer to {kind}")
        return answered.result()

    async def _send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)
        self._from_app.put_nowait(message)


def http_scope(
    path: str = "/",
    *,
    method: str = "GET",
    headers: Iterable[tuple[bytes, bytes]] = (),
    query: bytes = b"",
    client: tuple[str, int] | None = PUBLIC_CLIENT,
    **more: Any,
) -> dict[str, Any]:
    """An http scope as servers make it."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "root_path": "",
        "headers": [(b"host", b"testserver"), *headers],
        "client": client,
        "server": ("testserver", 80),
    } | more


def websocket_scope(path: str = "/live", *, denial: bool = False, **more: Any) -> dict[str, Any]:
    """A websocket scope; `denial`: the server knows the denial-response extension."""
    scope = http_scope(path) | {"type": "websocket", "scheme": "ws", "subprotocols": []}
    del scope["method"]
    if denial:
        scope["extensions"] = {"websocket.http.response": {}}
    return scope | more


class Exchange:
    """One request or socket: what the application receives, and what it sent."""

    def __init__(
        self, app: Any, scope: dict[str, Any], *, messages: Iterable[dict[str, Any]] | None = None
    ) -> None:
        self.app, self.scope = app, scope
        self.sent: list[dict[str, Any]] = []
        self.received = 0
        """How many messages the application has taken."""
        self.receiving = asyncio.Event()
        """Set when the application has asked for a message."""
        self._messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        first = (
            [{"type": "http.request", "body": b"", "more_body": False}]
            if scope["type"] == "http"
            else [{"type": "websocket.connect"}]
        )
        for message in first if messages is None else messages:
            self._messages.put_nowait(message)
        self.task: asyncio.Task[None] = asyncio.create_task(self._run())

    def give(self, **message: Any) -> None:
        """Let the application receive one more message."""
        self._messages.put_nowait(message)

    def leave(self) -> None:
        """The client goes away."""
        kind = "http.disconnect" if self.scope["type"] == "http" else "websocket.disconnect"
        self.give(type=kind)

    async def end(self) -> "Exchange":
        """Wait until the application has returned."""
        await limited(self.task)
        return self

    async def _run(self) -> None:
        await self.app(self.scope, self.receive, self.send)

    async def receive(self) -> dict[str, Any]:
        self.receiving.set()
        message = await self._messages.get()
        self.received += 1
        return message

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        """The status that was sent."""
        return self.sent[0]["status"]

    @property
    def headers(self) -> dict[bytes, bytes]:
        """The headers that were sent, each once."""
        pairs = self.sent[0]["headers"]
        found = dict(pairs)
        assert len(found) == len(pairs), pairs
        return found

    @property
    def body(self) -> bytes:
        """The whole body that was sent."""
        return b"".join(message.get("body", b"") for message in self.sent[1:])


async def get(app: Any, path: str = "/", **options: Any) -> Exchange:
    """One whole request."""
    return await Exchange(app, http_scope(path, **options)).end()


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """An application without lifespan that says hello."""
    if scope["type"] == "lifespan":
        raise ValueError("no lifespan here")
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 1000})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


class GatedLoad:
    """A load that blocks its thread until the test opens it."""

    def __init__(self, result: Any = hello, *, error: BaseException | None = None) -> None:
        self.result, self.error = result, error
        self.entered = threading.Event()
        self.opened = threading.Event()
        self.left = threading.Event()

    def __call__(self) -> Any:
        self.entered.set()
        try:
            if not self.opened.wait(LIMIT_S):
                raise AssertionError("the test never opened the load")
            if self.error is not None:
                raise self.error
            return self.result
        finally:
            self.left.set()

    async def has_been_entered(self) -> None:
        """Wait until the load runs."""
        assert await limited(asyncio.to_thread(self.entered.wait, LIMIT_S))


class Exits:
    """Stands for the end of the process."""

    def __init__(self) -> None:
        self.codes: list[int] = []
        self.happened = asyncio.Event()

    def __call__(self, code: int) -> None:
        self.codes.append(code)
        self.happened.set()


def other_tasks() -> list[asyncio.Task[Any]]:
    """What runs on the loop beside the test itself."""
    return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


class Booted:
    """A gate together with the server's side of its lifespan."""

    def __init__(self, gate: HealthGate, lifespan: Lifespan, exits: Exits) -> None:
        self.gate, self.lifespan, self.exits = gate, lifespan, exits

    async def until(self, *phases: str) -> None:
        """Wait until the gate's phase is one of these."""
        from asgi_health.phase import Phase  # noqa: PLC0415 - the import rule's test looks at fresh interpreters

        others = frozenset(Phase) - {Phase(phase) for phase in phases}
        await limited(self.gate.lifecycle.left(others))
        await settle()


@asynccontextmanager
async def served(
    target: Any,
    *,
    state: dict[str, Any] | None = None,
    gate: Callable[..., HealthGate] = HealthGate,
    **config: Any,
) -> Any:
    """A gate in a server that has started it; shut down afterwards, with nothing left behind."""
    exits = Exits()
    made = gate(
        target, config=HealthConfig(**({"failed_linger_s": 0} | config)), exit_process=exits
    )
    lifespan = Lifespan(made, state={} if state is None else state)
    assert await lifespan.startup() == {"type": "lifespan.startup.complete"}
    try:
        yield Booted(made, lifespan, exits)
    finally:
        if not lifespan.task.done():
            await lifespan.shutdown()
        if isinstance(target, GatedLoad):
            target.opened.set()
        await settle()
