"""An application that is imported well and refuses to start."""

from typing import Any

import orders

orders.obey("import")


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Only the lifespan is ever asked for."""
    assert scope["type"] == "lifespan"
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no broker"})
