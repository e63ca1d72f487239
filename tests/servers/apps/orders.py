"""Ask the test what to do, and block until it says so (tests/servers/harness.py, Loads)."""

import asyncio
import builtins
import ctypes
import os
import signal
import socket
import sys
import threading

_ADDRESS = ("127.0.0.1", int(os.environ["LOADS_PORT"]))


def obey(what: str) -> None:
    """Go on, raise, exit or hold the GIL, as the test orders; go on when the test is gone."""
    with socket.create_connection(_ADDRESS) as wire:
        wire.sendall(f"{what} {os.getpid()}\n".encode())
        order, _, argument = _line(wire).partition(" ")
        if order.startswith("raise"):
            raise getattr(builtins, order.partition("-")[2] or "RuntimeError")(argument)
        if order == "exit":
            sys.exit(argument)
        if order == "hold-gil-firmly":
            _let_signals_wait()
        if order in {"hold-gil", "hold-gil-firmly"}:
            _c_library().read(wire.fileno(), ctypes.create_string_buffer(1), 1)
        elif order == "hold-gil-for":
            _c_library().usleep(int(1_000_000 * float(argument)))
        elif order == "deflect-stops":
            _deflect_stops()
            wire.sendall(b"deflected\n")
            wire.recv(1)


def _let_signals_wait() -> None:
    """As for a C library that calls again when a signal has interrupted its call."""
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.siginterrupt(number, 0)


def _deflect_stops() -> None:
    """Have another thread get them: what this one waits for is not interrupted, as in the moment
    between the interpreter's last look at what has come and its call of the kernel.
    """
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})


def _line(wire: socket.socket) -> str:
    """The order, byte by byte: what follows it is for the C call that holds the GIL."""
    line = b""
    while not line.endswith(b"\n") and (byte := wire.recv(1)):
        line += byte
    return line.decode().strip()


async def obey_in_flight(what: str) -> None:
    """The same for a request, without blocking the loop."""
    reader, writer = await asyncio.open_connection(*_ADDRESS)
    writer.write(f"{what} {os.getpid()}\n".encode())
    await reader.readline()
    writer.close()
    await writer.wait_closed()


def _c_library() -> ctypes.PyDLL:
    """PyDLL, unlike CDLL, keeps the GIL during its calls."""
    return ctypes.PyDLL(None)
