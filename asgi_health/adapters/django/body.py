"""Bodies that come and go in parts: large uploads to disk, synchronous streams part by part."""

import io
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.exceptions import RequestAborted
from django.http import StreamingHttpResponse

from asgi_health.types import Message, Receive

__all__ = ["AsyncParts", "is_sync_stream", "read_body"]


_NO_BODY = {"type": "http.request", "body": b"", "more_body": False}
"""What servers send first when a request has no body: most of them."""


async def read_body(receive: Receive) -> Any:
    """The body as a file: in memory, and on disk when it is large.

    Raises:
        RequestAborted: the client left before all of it had come.
    """
    message = await receive()
    if message == _NO_BODY:
        return io.BytesIO()
    return await _spool(message, receive)


async def _spool(message: Message, receive: Receive) -> Any:
    """A body that comes in parts; once it is on disk, writing does not block the loop."""
    limit = settings.FILE_UPLOAD_MAX_MEMORY_SIZE
    file = tempfile.SpooledTemporaryFile(max_size=limit, mode="w+b")  # noqa: SIM115 - handed on
    size = 0
    try:
        while True:
            if message["type"] == "http.disconnect":
                raise RequestAborted  # noqa: TRY301 - the file is closed below
            body = message.get("body", b"")
            size += len(body)
            if size > limit:
                await sync_to_async(file.write, thread_sensitive=False)(body)
            else:
                file.write(body)
            if not message.get("more_body", False):
                break
            message = await receive()
    except BaseException:
        file.close()
        raise
    file.seek(0)
    return file


def is_sync_stream(response: Any) -> bool:
    """Whether Django would read the whole stream before it sends anything."""
    return (
        response.streaming
        and type(response).__aiter__ is StreamingHttpResponse.__aiter__
        and not response.is_async
    )


class AsyncParts:
    """A response whose synchronous content is read asynchronously, as it is sent."""

    def __init__(self, response: Any) -> None:
        self.status_code = response.status_code
        self.items = response.items
        self.cookies = response.cookies
        self.streaming = True
        self._parts = iter(response.streaming_content)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _part_by_part(self._parts)


async def _part_by_part(parts: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
    following: Any = sync_to_async(next)
    while (part := await following(parts, None)) is not None:
        yield part
