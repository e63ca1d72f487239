"""A Gunicorn worker class that leaves a booting process alone and passes Gunicorn's time-outs on.

What it changes about the stock `UvicornWorker`:

- It is not killed while it boots, however long the import holds the GIL. Gunicorn kills a worker
  that has notified once and then stays silent for `timeout`; this one notifies from ready on.
  Should the boot's own deadline fail to end it (a C call that never gives the GIL back), Gunicorn
  does.
- It notifies every second, not every `timeout / 2`: it survives a block of nearly `timeout`.
- A SIGINT at the master stops it, as SIGTERM does; stock serves on until it is killed.
- `graceful_timeout` becomes Uvicorn's `timeout_graceful_shutdown`; stock waits until it is killed.
- The lines of `asgi_health` stand where Gunicorn's do, unless logging is set up otherwise.
"""

import logging
import os
import signal
import time
import warnings
from types import FrameType
from typing import Any

from asgi_health.adapters.uvicorn.server import Post, serve_in_fleet
from asgi_health.phase import UNSETTLED

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    try:
        from uvicorn_worker import UvicornWorker  # type: ignore[import-untyped]  # ships no types
    except ImportError:  # without the package, Uvicorn still has the class that it deprecates
        from uvicorn.workers import UvicornWorker

__all__ = ["Worker"]

_LAST_RESORT_S = 30.0
_SHUTDOWN_MARGIN_S = 1.0
"""Uvicorn cancels what is left this much before Gunicorn kills, so that `finally` blocks run."""


class Worker(UvicornWorker):  # type: ignore[misc]  # neither package has types
    """`gunicorn -k asgi_health.adapters.uvicorn.Worker`; also for applications without a gate."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._notifies_at_settling = False
        self.post: Post | None = None
        _log_like_gunicorn(self.log.error_log)
        self.config.timeout_notify = 1
        graceful_s = max(0.0, self.cfg.graceful_timeout - _SHUTDOWN_MARGIN_S)
        self.config.timeout_graceful_shutdown = graceful_s

    def notify(self) -> None:
        """Tell Gunicorn that this worker lives; while it boots, tell it once until when to wait."""
        lifecycle = getattr(getattr(self, "wsgi", None), "lifecycle", None)
        if lifecycle is None or lifecycle.phase not in UNSETTLED:
            super().notify()
        elif not self._notifies_at_settling:  # the promise must not outlive the boot by a tick
            self._notifies_at_settling = True
            lifecycle.left(UNSETTLED).add_done_callback(lambda _: self.notify())

    async def _serve(self) -> None:
        """Serve as a member of the fleet when the hooks have made it one, else as stock does."""
        if self.post is None:
            await super()._serve()
        else:
            await serve_in_fleet(self, self.post)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop on SIGQUIT, which Gunicorn sends its workers when it gets SIGINT, as on SIGTERM.

        Stock goes on until `graceful_timeout` is over and it is killed.
        """
        super().handle_exit(sig, frame)
        signal.raise_signal(signal.SIGTERM)

    def load_wsgi(self) -> None:
        """Load the entry point, which is quick, then promise a heartbeat for the end of the boot.

        The promise is the heartbeat file's time stamp (Gunicorn compares it with the monotonic
        clock), set into the future: a worker whose boot outlives every other limit is killed then.
        """
        super().load_wsgi()
        config = getattr(self.wsgi, "config", None)
        if config is not None and self.timeout:
            boot_s = config.boot_deadline_s + config.failed_linger_s + _LAST_RESORT_S
            until_s = time.monotonic() + boot_s
            os.utime(self.tmp.fileno(), (until_s, until_s))


def _log_like_gunicorn(server_log: logging.Logger) -> None:
    """Show our lines where Gunicorn's stand, unless somebody has set logging up."""
    ours = logging.getLogger("asgi_health")
    if not ours.hasHandlers():
        ours.handlers = server_log.handlers
        ours.setLevel(server_log.level)
