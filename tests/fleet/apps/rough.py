"""The plain application, which also ends, grows, or waits at its startup, as a test wants it to."""

import asyncio
import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orders
from plain import app as plain

_kept: list[bytearray] = []


async def app(scope: Any, receive: Any, send: Any) -> None:
    """`/die/HOW`, `/grow/MIB`, `/program`; everything else is plain."""
    if scope["type"] == "lifespan":
        await _meet_startup()
    if scope["type"] == "http":
        _, word, argument = (*scope["path"].split("/", 2), "")[:3]
        if word == "die":
            ENDS[argument]()
        elif word == "grow":
            _kept.append(bytearray(b"x") * (int(argument) * 2**20))
        elif word == "program":
            await _send(send, json.dumps(await _run_program()).encode())
            return
    await plain(scope, receive, send)


async def _meet_startup() -> None:
    """Wait for the test when it wants to be asked, then end if the file says so."""
    if os.environ.get("STARTUP_ASKS"):
        await orders.obey_in_flight("startup")
    end = _end_of_startup()
    if end:
        ENDS[end]()


def _end_of_startup() -> str:
    path = Path(os.environ.get("STARTUP_FILE", "/nonexistent"))
    return path.read_text(encoding="utf-8") if path.exists() else ""


async def _run_program() -> list[Any]:
    """How a program of a worker ends, by asyncio and by subprocess, and which signals it blocks."""
    program = await asyncio.create_subprocess_exec("false")
    status = await asyncio.to_thread(subprocess.check_output, ["cat", "/proc/self/status"])
    (blocked,) = [line for line in status.decode().splitlines() if line.startswith("SigBlk")]
    return [await program.wait(), int(blocked.split()[1], 16)]


async def _send(send: Any, body: bytes) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


ENDS: dict[str, Callable[[], Any]] = {
    "exit": lambda: os._exit(7),
    "exit-3": lambda: os._exit(3),
    "abort": os.abort,
    "segfault": lambda: ctypes.string_at(0),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    # Uvicorn catches what a request raises, not what a callback does.
    "sys-exit": lambda: asyncio.get_running_loop().call_soon(sys.exit, 7),
    "stop-loop": lambda: asyncio.get_running_loop().stop(),
}
"""Ways to end a worker."""
