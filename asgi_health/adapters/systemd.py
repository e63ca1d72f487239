"""Tell systemd about the boot and the stop, by the protocol of `sd_notify(3)`.

https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
"""

import logging
import socket
from collections.abc import MutableMapping

__all__ = ["Notifier"]

_log = logging.getLogger("asgi_health.systemd")
_VARIABLE = "NOTIFY_SOCKET"
_KIND = socket.SOCK_DGRAM | getattr(socket, "SOCK_CLOEXEC", 0)  # where there is no flag: PEP 446


class Notifier:
    """Sends messages to the service manager, or none when there is no service manager.

    Never raises and never waits, so that it can be called in a handler of a signal; the first
    message that cannot be sent is logged, later ones are not.
    """

    def __init__(self, path: str) -> None:
        """Send to the socket at `path`, `@` first when it is abstract; an empty one: to nobody."""
        self._path = path
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._is_ready = False
        self._is_stopping = False
        self._has_complained = False

    @classmethod
    def take(cls, environ: MutableMapping[str, str]) -> "Notifier":
        """The notifier that `environ` asks for.

        Takes the variable away, so that nobody else, the server or a child, notifies as well.
        """
        path = environ.pop(_VARIABLE, "")
        if path and path[0] not in "/@":
            _log.warning(
                "%s is %r; allowed is a path that begins with / or @; systemd will not be notified",
                _VARIABLE,
                path,
            )
            path = ""
        return cls(path)

    @property
    def is_active(self) -> bool:
        """Whether there is somebody to notify."""
        return bool(self._path)

    def loading(self, *, limit_s: float) -> None:
        """The start goes on and may take `limit_s` more; to be said again before that is over."""
        if not (self._is_ready or self._is_stopping):
            self._send(f"EXTEND_TIMEOUT_USEC={round(limit_s * 1e6)}\nSTATUS=loading")

    def ready(self) -> None:
        """The service is ready.

        Sent once; again only when it could not be sent. Never after the stop.
        """
        if not (self._is_ready or self._is_stopping):
            self._is_ready = True  # first: a handler of a signal may come in between
            self._is_ready = self._send("READY=1\nSTATUS=ready")

    def stopping(self) -> None:
        """The service stops; sent once."""
        if not self._is_stopping:
            self._is_stopping = True
            self._send("STOPPING=1\nSTATUS=stopping")

    def status(self, text: str) -> None:
        """A line for `systemctl status`; line breaks become spaces."""
        self._send("STATUS=" + " ".join(text.splitlines()))

    def _send(self, message: str) -> bool:
        """Send it; False when that failed."""
        if not self.is_active:
            return True
        try:
            with socket.socket(socket.AF_UNIX, _KIND) as sender:
                sender.settimeout(0.0)
                sender.sendto(message.encode("utf-8", "replace"), self._address)
        except OSError as error:
            self._complain(error)
            return False
        return True

    def _complain(self, error: OSError) -> None:
        if not self._has_complained:
            self._has_complained = True
            _log.warning("systemd cannot be notified at %r: %s", self._path, error)
