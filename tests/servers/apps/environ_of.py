"""An application that tells the names of its environment."""

import json
import os
from typing import Any


async def app(scope: Any, receive: Any, send: Any) -> None:
    """No lifespan, one answer."""
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    body = json.dumps(sorted(os.environ)).encode()
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
