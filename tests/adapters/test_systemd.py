"""What a service manager receives at its socket, whole messages in order."""

import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asgi_health.adapters.systemd import Notifier

VARIABLE = "NOTIFY_SOCKET"


class Manager:
    """The service manager's end."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.settimeout(0.0)

    def received(self) -> list[str]:
        """All that has come since the last look."""
        messages = []
        while True:
            try:
                messages.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return messages


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "notify")


@pytest.fixture
def manager(path: str) -> Iterator[Manager]:
    listening = Manager(path)
    yield listening
    listening.socket.close()


@pytest.fixture
def notifier(manager: Manager, path: str) -> Notifier:
    return Notifier.take({VARIABLE: path})


def test_a_life_is_told_in_order(notifier: Notifier, manager: Manager) -> None:
    assert notifier.is_active
    notifier.loading(limit_s=90.5)
    notifier.loading(limit_s=30)
    notifier.ready()
    notifier.status("3 of 4 workers")
    notifier.stopping()
    assert manager.received() == [
        "EXTEND_TIMEOUT_USEC=90500000\nSTATUS=loading",
        "EXTEND_TIMEOUT_USEC=30000000\nSTATUS=loading",
        "READY=1\nSTATUS=ready",
        "STATUS=3 of 4 workers",
        "STOPPING=1\nSTATUS=stopping",
    ]


def test_ready_and_stopping_are_told_once(notifier: Notifier, manager: Manager) -> None:
    for _ in range(2):
        notifier.ready()
    for _ in range(2):
        notifier.stopping()
    assert [message.partition("\n")[0] for message in manager.received()] == [
        "READY=1",
        "STOPPING=1",
    ]


def test_after_ready_there_is_no_loading_and_after_the_stop_neither(
    notifier: Notifier, manager: Manager, path: str
) -> None:
    notifier.ready()
    notifier.loading(limit_s=1)
    assert manager.received() == ["READY=1\nSTATUS=ready"]
    stopped = Notifier.take({VARIABLE: path})
    stopped.stopping()
    stopped.loading(limit_s=1)
    stopped.ready()
    assert manager.received() == ["STOPPING=1\nSTATUS=stopping"]


def test_the_variable_is_taken_away_and_nothing_else(path: str, manager: Manager) -> None:
    environ = {VARIABLE: path, "OTHER": "1"}
    first = Notifier.take(environ)
    assert environ == {"OTHER": "1"}
    second = Notifier.take(environ)
    assert (first.is_active, second.is_active) == (True, False)


@pytest.mark.parametrize("environ", [{}, {VARIABLE: ""}])
def test_without_a_manager_nothing_happens(
    environ: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier.take(environ)
    notifier.loading(limit_s=1)
    notifier.ready()
    notifier.status("text")
    notifier.stopping()
    assert not notifier.is_active
    assert environ == {}
    assert caplog.records == []


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")
def test_an_abstract_socket_is_reached() -> None:
    name = f"asgi-health-test-{os.getpid()}"
    manager = Manager("\0" + name)
    try:
        Notifier.take({VARIABLE: "@" + name}).ready()
        assert manager.received() == ["READY=1\nSTATUS=ready"]
    finally:
        manager.socket.close()


@pytest.mark.parametrize("address", ["vsock:2:1234", "relative/path", "tcp://127.0.0.1:1"])
def test_another_kind_of_address_is_named_and_refused(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    environ = {VARIABLE: address}
    notifier = Notifier.take(environ)
    notifier.ready()
    assert not notifier.is_active
    assert environ == {}
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert repr(address) in record.getMessage()
    assert "begins with / or @" in record.getMessage()


def test_a_status_stays_one_line(notifier: Notifier, manager: Manager) -> None:
    notifier.status("one\nREADY=1\r\ntwo \u00e9")
    assert manager.received() == ["STATUS=one READY=1 two \u00e9"]


def test_what_cannot_be_sent_is_logged_once_and_never_raised(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier.take({VARIABLE: path})
    notifier.loading(limit_s=1)
    notifier.status("text")
    notifier.stopping()
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert repr(path) in record.getMessage()
    assert "No such file" in record.getMessage()


def test_a_path_that_no_socket_can_have_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    Notifier.take({VARIABLE: "/" + "x" * 200}).ready()
    [record] = caplog.records
    assert "too long" in record.getMessage()


def test_ready_is_told_again_when_it_could_not_be_sent(path: str) -> None:
    notifier = Notifier.take({VARIABLE: path})
    notifier.ready()
    manager = Manager(path)
    try:
        notifier.ready()
        notifier.ready()
        assert manager.received() == ["READY=1\nSTATUS=ready"]
    finally:
        manager.socket.close()


def test_a_manager_that_does_not_read_blocks_nobody(
    notifier: Notifier, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(100_000):
        notifier.status("text")
        if caplog.records:
            break
    assert "unavailable" in caplog.records[0].getMessage()


def test_a_handler_that_comes_in_between_does_not_tell_ready_twice(
    notifier: Notifier, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(socket.socket):
        def sendto(self, *args: Any) -> int:
            notifier.ready()
            return super().sendto(*args)

    monkeypatch.setattr(socket, "socket", Interrupted)
    notifier.ready()
    assert manager.received() == ["READY=1\nSTATUS=ready"]


def test_a_handler_of_a_signal_can_notify(notifier: Notifier, manager: Manager) -> None:
    previous = signal.signal(signal.SIGUSR1, lambda *_: notifier.stopping())
    try:
        signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert manager.received() == ["STOPPING=1\nSTATUS=stopping"]
