"""An import that raises, hangs, or keeps the GIL: true probes, one traceback, an end."""

import re
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.servers.conftest import Start
from tests.servers.harness import GUNICORN, LIMIT_S, UVICORN, UVICORN_WORKERS, Kind, Loads

ANSWERS_ON = {"FAILED_LINGER_S": "600"}
"""The failed process goes on answering for the whole of the test."""

ENDS_SOON = {"FAILED_LINGER_S": "0.2"}

MARK = "no such setting: 7c1f"


def test_an_import_that_raises_shows_on_every_probe(kind: Kind, start: Start, loads: Loads) -> None:
    server = start(kind, env=ANSWERS_ON)
    for load in [loads.next() for _ in range(server.workers)]:
        load.order(f"raise {MARK}")
    server.wait_for_log("boot failed: boot.error", count=server.workers)

    for path in ("/livez", "/readyz", "/startupz"):
        answer = server.ask(path)
        assert (answer.status, answer.text) == (503, "boot.error"), path
        assert answer.headers["retry-after"] == "1"
    assert server.ask("/livez?format=json").json["phase"] == "failed"
    assert MARK in server.ask("/statusz").text
    assert MARK not in server.ask("/livez?verbose", headers={"Host": "public.example"}).text


def test_an_import_that_raises_answers_what_was_held_and_what_comes_later_with_its_code(
    kind: Kind, start: Start, loads: Loads
) -> None:
    server = start(kind, env=ANSWERS_ON)
    with server.connect() as get, server.connect() as post:
        get.request("/hello")
        post.request("/echo", method="POST", body=b"x" * 100_000)
        for load in [loads.next() for _ in range(server.workers)]:
            load.order(f"raise {MARK}")
        answers = [get.answer(), post.answer()]
    answers.append(server.ask("/later"))

    for answer in answers:
        assert answer.status == 503
        assert answer.json["code"] == "boot.error"
        assert answer.headers["retry-after"] == "1"
        assert MARK not in answer.text


def test_an_import_that_raises_denies_the_held_handshake_with_its_code(
    kind: Kind, start: Start, loads: Loads
) -> None:
    server = start(kind, env=ANSWERS_ON)
    imports = [loads.next() for _ in range(server.workers)]
    with ThreadPoolExecutor() as pool:
        address = f"ws://127.0.0.1:{server.port}/live"
        handshake = pool.submit(connect, address, open_timeout=LIMIT_S)
        server.wait_held(1)
        for load in imports:
            load.order(f"raise {MARK}")
        with pytest.raises(InvalidStatus) as denied:
            handshake.result(LIMIT_S)

    assert denied.value.response.status_code == 503
    assert b"boot.error" in (denied.value.response.body or b"")


def test_an_import_that_raises_is_logged_once_and_ends_the_whole_server_with_3(
    kind: Kind, start: Start, loads: Loads
) -> None:
    server = start(kind, env=ENDS_SOON)
    for load in [loads.next() for _ in range(server.workers)]:
        load.order(f"raise {MARK}")

    code = server.wait_ended()

    assert code == (0 if kind is UVICORN_WORKERS else 3)  # that parent ends, but with 0
    assert server.log.count("Traceback (most recent call last)") == server.workers
    assert len(re.findall(f"^RuntimeError: {MARK}$", server.log, re.MULTILINE)) == server.workers
    assert "slow.py" in server.log
    assert "<frozen importlib" not in server.log


def test_an_import_that_calls_exit_is_a_failed_boot_like_any_other(
    start: Start, loads: Loads
) -> None:
    server = start(GUNICORN, env=ANSWERS_ON)
    loads.next().order("exit set the secret key first")
    server.wait_for_log("boot failed: boot.error: SystemExit: set the secret key first$")
    assert server.ask("/livez").text == "boot.error"


def test_a_target_that_does_not_exist_shows_its_own_code(start: Start) -> None:
    server = start(UVICORN, env={**ANSWERS_ON, "TARGET": "plain:missing"})
    until_failed = server.wait_for_log("boot failed: boot.target: (.*)$")
    assert "plain:missing" in until_failed[1]
    assert server.ask("/livez").text == "boot.target"


def test_an_import_error_shows_its_own_code(start: Start) -> None:
    server = start(UVICORN, env={**ANSWERS_ON, "TARGET": "no_such_module:app"})
    server.wait_for_log("boot failed: boot.import_error")
    assert server.ask("/livez").text == "boot.import_error"


def test_an_import_that_hangs_fails_at_the_deadline_with_all_stacks(
    kind: Kind, start: Start, loads: Loads
) -> None:
    server = start(kind, env={**ANSWERS_ON, "BOOT_DEADLINE_S": "1"})
    for _ in range(server.workers):
        loads.next()
    with server.connect() as held:
        held.request("/hello")
        answer = held.answer()
    server.wait_for_log("boot failed: boot.deadline", count=server.workers)

    assert (answer.status, answer.json["code"]) == (503, "boot.deadline")
    assert server.ask("/livez").text == "boot.deadline"
    assert server.ask("/readyz").text == "boot.deadline"
    assert len(re.findall(r"orders\.py\", line \d+ in obey", server.log)) == server.workers
    assert len(re.findall(r"^(Current thread|Thread) 0x", server.log, re.MULTILINE)) >= 2


def test_a_load_that_comes_after_the_deadline_is_refused(start: Start, loads: Loads) -> None:
    server = start(GUNICORN, env={**ANSWERS_ON, "BOOT_DEADLINE_S": "0.5"})
    late = loads.next()
    server.wait_for_log("boot failed: boot.deadline")

    late.release()

    server.wait_for_log("the load ended after the boot was over; it is refused")
    assert server.ask("/livez").text == "boot.deadline"
    assert server.ask("/hello").json["code"] == "boot.deadline"


def test_an_import_that_hangs_ends_the_whole_server_with_3(
    kind: Kind, start: Start, loads: Loads
) -> None:
    server = start(kind, env={**ENDS_SOON, "BOOT_DEADLINE_S": "0.5"})
    for _ in range(server.workers):
        loads.next()
    assert server.wait_ended() == (0 if kind is UVICORN_WORKERS else 3)


@pytest.mark.parametrize("seconds", ["1.5", "4.5"], ids=["over half", "twice"])
def test_our_worker_class_survives_an_import_that_holds_the_gil_for_the_time_out(
    seconds: str, start: Start, loads: Loads
) -> None:
    server = start(GUNICORN, "gated:app", "--timeout", "2")
    load = loads.next()

    load.order(f"hold-gil-for {seconds}")
    with server.connect() as client:
        client.request("/hello")
        answer = client.answer()

    assert (answer.status, answer.json["pid"]) == (200, load.pid)
    assert "TIMEOUT" not in server.log
    server.wait_ready()


def test_our_worker_class_is_watched_by_gunicorn_again_once_it_is_ready(
    start: Start, loads: Loads
) -> None:
    server = start(GUNICORN, "gated:app", "--timeout", "2")
    first = loads.next()
    first.release()
    server.wait_ready()
    with server.connect() as client:
        client.request("/block")
        loads.next("block").order("hold-gil")
        server.wait_for_log(rf"WORKER TIMEOUT \(pid:{first.pid}\)")
    assert loads.next().pid != first.pid


def test_a_gil_held_beyond_the_deadline_leaves_stacks_and_ends_the_process(
    start: Start, loads: Loads
) -> None:
    server = start(UVICORN, env={"BOOT_DEADLINE_S": "0.5", "FAILED_LINGER_S": "0.2"})
    loads.next().order("hold-gil")

    code = server.wait_ended()

    assert code == -signal.SIGALRM
    assert re.search(r"orders\.py\", line \d+ in obey", server.log)
    assert re.search(r"uvicorn.+ in serve|runners\.py", server.log)


def test_a_gil_given_back_after_the_deadline_fails_the_boot_all_the_same(
    start: Start, loads: Loads
) -> None:
    server = start(UVICORN, env={"BOOT_DEADLINE_S": "0.5", "FAILED_LINGER_S": "30"})
    load = loads.next()
    load.order("hold-gil")
    server.wait_for_log(r"orders\.py\", line \d+ in obey")

    load.release_gil()

    server.wait_for_log("boot failed: boot.deadline")
    assert server.ask("/livez").text == "boot.deadline"


def test_an_error_that_cannot_say_what_it_is_fails_the_boot_all_the_same(start: Start) -> None:
    server = start(UVICORN, env={**ANSWERS_ON, "TARGET": "speechless:app"})
    server.wait_for_log("boot failed: boot.error: Speechless: .+$")
    assert server.ask("/livez").text == "boot.error"
