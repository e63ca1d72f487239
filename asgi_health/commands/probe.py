"""`probe`: ask a health path over a socket.

Uses nothing slow, so that it starts in a few hundredths of a second.
"""

import os
import socket
import sys
import time

TYPE_CHECKING = False  # see asgi_health/__init__.py
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["run"]

USAGE = """\
usage: python -m asgi_health probe [URL|PATH] [--timeout SECONDS] [--wait SECONDS]

Asks URL and prints the answer. Default: http://127.0.0.1:$PORT/readyz, port 8000 without PORT.
A PATH replaces /readyz.
  --timeout SECONDS  for one attempt, default 3
  --wait SECONDS     ask again until ready or until this time is over, default 0
Exit codes: 0 ready, 1 not ready, 2 unreachable, 3 wrong usage.
"""
READY, NOT_READY, UNREACHABLE, WRONG_USAGE = 0, 1, 2, 3
_PAUSE_S = 0.2
_ANSWER_MAX_BYTES = 65536


class UsageError(Exception):
    """The arguments cannot be understood; the text says why."""


class _Call:
    """What to ask, where, and for how long. No dataclass: making one takes a fifth of the time."""

    __slots__ = ("host", "path", "port", "timeout_s", "tls", "wait_s")

    def __init__(
        self, *, tls: bool, host: str, port: int, path: str, timeout_s: float, wait_s: float
    ) -> None:
        self.tls = tls
        self.host = host
        self.port = port
        self.path = path
        self.timeout_s = timeout_s
        self.wait_s = wait_s


def run(arguments: "Sequence[str]") -> int:
    """Ask, print, and tell by the exit code."""
    if set(arguments) & {"-h", "--help"}:
        sys.stdout.write(USAGE)
        return READY
    try:
        call = _parse(arguments, os.environ.get("PORT") or "8000")
    except UsageError as error:
        sys.stderr.write(f"{error}\n{USAGE}")
        return WRONG_USAGE
    end_s = time.monotonic() + call.wait_s
    while True:
        code, text = _ask(call)
        if code == READY or time.monotonic() + _PAUSE_S >= end_s:
            (sys.stdout if code == READY else sys.stderr).write(text + "\n")
            return code
        time.sleep(_PAUSE_S)


def _parse(arguments: "Sequence[str]", port: str) -> _Call:
    target, seconds = "/readyz", {"--timeout": 3.0, "--wait": 0.0}
    rest = list(arguments)
    named = 0
    while rest:
        word = rest.pop(0)
        option, equals, value = word.partition("=")
        if option in seconds:
            seconds[option] = _seconds(option, value if equals else (rest.pop(0) if rest else ""))
        elif word.startswith("-") or named:
            raise UsageError(f"unexpected argument {word!r}")
        else:
            target, named = word, 1
    if seconds["--timeout"] == 0:
        raise UsageError("--timeout is 0; allowed: a number above 0")
    tls, host, port_number, path = _split(target, port)
    return _Call(
        tls=tls,
        host=host,
        port=port_number,
        path=path,
        timeout_s=seconds["--timeout"],
        wait_s=seconds["--wait"],
    )


def _seconds(option: str, value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e6:
        raise UsageError(f"{option} is {value!r}; allowed: seconds from 0 on")
    return seconds


def _split(target: str, port: str) -> tuple[bool, str, int, str]:
    if target.startswith("/"):
        target = f"http://127.0.0.1:{port}{target}"
    scheme, separator, rest = target.partition("://")
    if not separator or scheme not in {"http", "https"}:
        raise UsageError(
            f"target is {target!r}; allowed: a path, or an address that starts with http:// or https://"
        )
    authority, slash, path = rest.partition("/")
    host, colon, number = authority.rpartition(":")
    if not colon or "]" in number:
        host, number = authority, "443" if scheme == "https" else "80"
    if not host or not number.isascii() or not number.isdigit() or not 0 < int(number) < 65536:
        raise UsageError(f"target is {target!r}; allowed: http://HOST[:PORT][/PATH]")
    path = slash + path or "/readyz"
    if any(character <= " " or character == "\x7f" for character in host + path):
        raise UsageError(
            f"target is {target!r}; allowed: an address without spaces and control characters"
        )
    return scheme == "https", host.strip("[]"), int(number), path


def _ask(call: _Call) -> tuple[int, str]:
    end_s = time.monotonic() + call.timeout_s
    try:
        answer = _exchange(call, end_s)
    except (OSError, UnicodeError) as error:  # a host name that cannot be encoded
        return UNREACHABLE, f"unreachable: {call.host}:{call.port}: {error}"
    head, is_whole, body = answer.partition(b"\r\n\r\n")
    words = head.partition(b"\r\n")[0].split(b" ", 2)
    if (
        not is_whole
        or len(words) < 2
        or not words[0].startswith(b"HTTP/")
        or not words[1].isdigit()
    ):
        return UNREACHABLE, f"unreachable: {call.host}:{call.port} does not speak HTTP"
    text = body.decode("utf-8", "replace").strip() or words[1].decode()
    return (READY, text) if words[1] == b"200" else (NOT_READY, f"{words[1].decode()} {text}")


def _exchange(call: _Call, end_s: float) -> bytes:
    with socket.create_connection((call.host, call.port), timeout=call.timeout_s) as plain:
        connection = _wrap(plain, call.host) if call.tls else plain
        host = f"[{call.host}]" if ":" in call.host else call.host
        request = (
            f"GET {call.path} HTTP/1.1\r\nHost: {host}:{call.port}\r\nConnection: close\r\n\r\n"
        )
        connection.sendall(request.encode("utf-8"))
        answer = b""
        while len(answer) < _ANSWER_MAX_BYTES:
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError("timed out")
            connection.settimeout(left_s)
            chunk = connection.recv(_ANSWER_MAX_BYTES)
            if not chunk:
                break
            answer += chunk
        return answer


def _wrap(plain: socket.socket, host: str) -> socket.socket:
    import ssl  # noqa: PLC0415 - costs more than all the rest

    return ssl.create_default_context().wrap_socket(plain, server_hostname=host)
