"""`python -m asgi_health probe | boot-report | init`: exit codes, words, files."""

import ast
import contextlib
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server_side import LIMIT_S

import asgi_health
from asgi_health.__main__ import main
from asgi_health.commands import probe

# probe: a server that sends what the test says.


class TinyServer:
    """Answers every connection with the same bytes; keeps what it was sent."""

    def __init__(self, answer: bytes, *, host: str = "127.0.0.1", holds: bool = False) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = socket.socket(family)
        self.socket.bind((host, 0))
        self.socket.listen(5)
        self.host, self.port = self.socket.getsockname()[:2]
        self.answer, self.holds = answer, holds
        self.asked: list[bytes] = []
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.socket.accept()
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(LIMIT_S)
                    asked = b""
                    while b"\r\n\r\n" not in asked:
                        asked += connection.recv(65536)
                    self.asked.append(asked)
                    connection.sendall(self.answer)
                    if self.holds:
                        self.done.wait(LIMIT_S)

    def close(self) -> None:
        self.done.set()
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.thread.join(LIMIT_S)


@pytest.fixture
def serve() -> Iterator[Any]:
    """Make tiny servers; all of them end with the test."""
    made: list[TinyServer] = []

    def make(answer: bytes, **options: Any) -> TinyServer:
        made.append(TinyServer(answer, **options))
        return made[-1]

    yield make
    for server in made:
        server.close()


def answer(status: str, body: bytes = b"", *headers: bytes) -> bytes:
    head = b"\r\n".join([f"HTTP/1.1 {status}".encode(), *headers])
    return head + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    ("sent", "code", "stream", "words"),
    [
        (answer("200 OK", b"ok"), 0, "out", "ok\n"),
        (answer("200 OK"), 0, "out", "200\n"),
        (answer("200", b"ok"), 0, "out", "ok\n"),
        (answer("200 ", b"ok", b"content-type: text/plain"), 0, "out", "ok\n"),
        (answer("200 OK", b"\xff\xfe"), 0, "out", "\ufffd\ufffd\n"),
        (answer("503 Service Unavailable", b"loading"), 1, "err", "503 loading\n"),
        (answer("204 No Content"), 1, "err", "204 204\n"),
        (answer("301 Moved", b"", b"location: /x"), 1, "err", "301 301\n"),
        (answer("404 Not Found", b"no"), 1, "err", "404 no\n"),
        (answer("401 Unauthorized", b"token"), 1, "err", "401 token\n"),
        (answer("2000 OK", b"x"), 1, "err", "2000 x\n"),
        (b"", 2, "err", "does not speak HTTP"),
        (b"SSH-2.0-server\r\n", 2, "err", "does not speak HTTP"),
        (b"\x00\xff" * 50, 2, "err", "does not speak HTTP"),
        (b"HTTP/1.1\r\n\r\n", 2, "err", "does not speak HTTP"),
        (b"HTTP/1.1 OK\r\n\r\n", 2, "err", "does not speak HTTP"),
        (b"HTTP/1.1 200", 2, "err", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\ncontent-le", 2, "err", "does not speak HTTP"),
    ],
)
def test_the_exit_code_tells_what_the_server_said(
    sent: bytes, code: int, stream: str, words: str, serve: Any, capsys: Any
) -> None:
    server = serve(sent)
    assert main(["probe", f"http://127.0.0.1:{server.port}/readyz"]) == code
    printed = capsys.readouterr()
    assert words in getattr(printed, stream)
    assert getattr(printed, "err" if stream == "out" else "out") == ""


def test_the_request_is_small_plain_and_closes(serve: Any) -> None:
    server = serve(answer("200 OK", b"ok"))
    main(["probe", f"http://127.0.0.1:{server.port}/a/b?verbose"])
    assert server.asked == [
        b"GET /a/b?verbose HTTP/1.1\r\n"
        b"Host: 127.0.0.1:%d\r\nConnection: close\r\n\r\n" % server.port
    ]


def test_a_huge_answer_is_read_in_part(serve: Any, capsys: Any) -> None:
    server = serve(answer("200 OK", b"a" * 3_000_000))
    assert main(["probe", f"http://127.0.0.1:{server.port}/readyz"]) == 0
    assert len(capsys.readouterr().out) < 200_000


def test_a_server_that_answers_nothing_in_time_is_unreachable(serve: Any, capsys: Any) -> None:
    server = serve(b"", holds=True)
    url = f"http://127.0.0.1:{server.port}/readyz"
    assert main(["probe", url, "--timeout", "0.05"]) == 2
    assert "unreachable: 127.0.0.1:" in capsys.readouterr().err


def test_a_server_that_is_not_there_is_unreachable(capsys: Any) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    assert main(["probe", f"http://127.0.0.1:{port}/readyz"]) == 2
    assert f"unreachable: 127.0.0.1:{port}: " in capsys.readouterr().err


@pytest.mark.parametrize("host", ["a" * 70 + ".example", "..", "xn--\u0080"])
def test_a_host_that_cannot_be_looked_up_is_unreachable(host: str, capsys: Any) -> None:
    assert main(["probe", f"http://{host}:1/readyz"]) == 2
    assert "unreachable" in capsys.readouterr().err


def test_an_ipv6_address_stands_in_brackets(serve: Any) -> None:
    try:
        server = serve(answer("200 OK", b"ok"), host="::1")
    except OSError:
        pytest.skip("no IPv6 on this machine")
    assert main(["probe", f"http://[::1]:{server.port}/livez"]) == 0
    assert b"Host: [::1]:%d\r\n" % server.port in server.asked[0]


def test_a_path_is_asked_on_this_machine_at_the_port_of_the_environment(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(answer("200 OK", b"ok"))
    monkeypatch.setenv("PORT", str(server.port))
    assert main(["probe"]) == 0
    assert main(["probe", "/livez"]) == 0
    assert [asked.split()[1] for asked in server.asked] == [b"/readyz", b"/livez"]


def test_waiting_asks_again_until_ready(
    serve: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    server = serve(answer("503 Service Unavailable", b"loading"))

    def ready_after_two(_seconds: float) -> None:
        if len(server.asked) == 2:
            server.answer = answer("200 OK", b"ok")

    monkeypatch.setattr("asgi_health.commands.probe.time.sleep", ready_after_two)
    url = f"http://127.0.0.1:{server.port}/readyz"
    assert main(["probe", url, "--wait=1000"]) == 0
    assert len(server.asked) == 3
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("ok\n", "")


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ([], (False, "127.0.0.1", 8000, "/readyz")),
        (["/livez"], (False, "127.0.0.1", 8000, "/livez")),
        (["http://h"], (False, "h", 80, "/readyz")),
        (["https://h"], (True, "h", 443, "/readyz")),
        (["https://h:8443/x?y"], (True, "h", 8443, "/x?y")),
        (["http://h:1/"], (False, "h", 1, "/")),
        (["http://[::1]"], (False, "::1", 80, "/readyz")),
        (["http://[::1]:8000/x"], (False, "::1", 8000, "/x")),
    ],
)
def test_addresses_and_paths_are_understood(arguments: list[str], found: Any) -> None:
    call = probe._parse(arguments, "8000")
    assert (call.tls, call.host, call.port, call.path) == found
    assert (call.timeout_s, call.wait_s) == (3.0, 0.0)


def test_options_are_understood_in_both_spellings() -> None:
    call = probe._parse(["--timeout=0.5", "/x", "--wait", "60"], "8000")
    assert (call.timeout_s, call.wait_s, call.path) == (0.5, 60.0, "/x")


@pytest.mark.parametrize(
    "arguments",
    [
        ["readyz"],
        ["ftp://h/x"],
        ["http://"],
        ["http://:80/"],
        ["http://h:0/"],
        ["http://h:65536/"],
        ["http://h:x/"],
        ["http://h:-1/"],
        ["http://h:\u0661/"],
        ["http://h/a b"],
        ["http://h/a\r\nHost: evil"],
        ["http://h\n/"],
        ["/a", "/b"],
        ["--unknown"],
        ["-t", "1"],
        ["--timeout"],
        ["--timeout", "x"],
        ["--timeout", "-1"],
        ["--timeout", "0"],
        ["--timeout", "nan"],
        ["--wait", "inf"],
        [""],
    ],
)
def test_wrong_usage_is_3_with_a_reason_and_asks_nobody(
    arguments: list[str], capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "_ask", lambda call: pytest.fail("asked"))
    assert main(["probe", *arguments]) == 3
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "usage: python -m asgi_health probe" in printed.err


def test_a_wrong_port_in_the_environment_is_wrong_usage(
    capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORT", "http")
    assert main(["probe"]) == 3
    assert "http://127.0.0.1:http/readyz" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--help"], ["-h"], ["help"], ["probe", "--help"], ["probe", "/x", "-h"]]
)
def test_help_is_printed_and_is_no_error(arguments: list[str], capsys: Any) -> None:
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("usage: python -m asgi_health")
    assert printed.err == ""


@pytest.mark.parametrize("arguments", [[], ["unknown"], ["--unknown"], [""]])
def test_an_unknown_command_is_3(arguments: list[str], capsys: Any) -> None:
    assert main(arguments) == 3
    assert "COMMAND" in capsys.readouterr().err


# boot-report


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of a user, whose modules are fresh."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def module(folder: Path, source: str) -> str:
    name = f"reported_{abs(hash(str(folder)))}"
    (folder / f"{name}.py").write_text(source)
    return name


APP = "async def app(scope, receive, send): pass\n"


@pytest.mark.parametrize(
    "source",
    [APP, "async def inner(scope, receive, send): pass\ndef app(): return inner\n"],
)
def test_the_report_lists_steps_and_modules(folder: Path, source: str, capsys: Any) -> None:
    name = module(folder, source)
    (folder / f"{name}_slow.py").write_text("")
    (folder / f"{name}.py").write_text(f"import {name}_slow\n" + source)
    assert main(["boot-report", f"{name}:app"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("loaded in 0.")
    assert "\nstep\n  import " in printed.out
    assert printed.err == ""


def test_the_report_of_a_gate_loads_what_is_behind_it(folder: Path, capsys: Any) -> None:
    name = module(
        folder,
        "from asgi_health import HealthGate\n" + APP + "gate = HealthGate(__name__ + '_inner:app')",
    )
    (folder / f"{name}_inner.py").write_text(APP)
    assert main(["boot-report", f"{name}:gate"]) == 0
    assert f"{name}_inner" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("raise OSError('no disk')", "the load failed: boot.error: OSError: no disk"),
        ("import no_such_module", "the load failed: boot.import_error: ModuleNotFoundError"),
        ("app = 7", "the load failed: boot.target: "),
        ("import sys; sys.exit(0)", "the load failed: boot.error: SystemExit: 0"),
        ("def app():\n    raise KeyError('x')", "the load failed: boot.error: KeyError: 'x'"),
    ],
)
def test_a_load_that_fails_is_told_with_its_traceback_and_1(
    folder: Path, source: str, words: str, capsys: Any
) -> None:
    assert main(["boot-report", f"{module(folder, source)}:app"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert words in printed.err


@pytest.mark.parametrize("name", ["no_such_module_at_all:app", ":app", "x"])
def test_a_name_that_leads_nowhere_is_1(folder: Path, name: str, capsys: Any) -> None:
    assert main(["boot-report", name]) == 1
    assert "the load failed: " in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["a:b", "c:d"], ["--unknown", "a:b"]])
@pytest.mark.parametrize("command", ["boot-report", "init"])
def test_wrong_usage_of_the_other_commands_is_3(
    command: str, arguments: list[str], folder: Path, capsys: Any
) -> None:
    if command == "boot-report" or arguments != ["a:b", "c:d"]:
        assert main([command, *arguments]) == 3
        assert capsys.readouterr().err
        assert list(folder.iterdir()) == []


@pytest.mark.parametrize("command", ["boot-report", "init"])
def test_the_other_commands_have_help(command: str, capsys: Any) -> None:
    assert main([command, "--help"]) == 0
    assert f"usage: python -m asgi_health {command}" in capsys.readouterr().out


# init


def test_init_writes_two_files_that_compile_and_says_what_to_do_next(
    folder: Path, capsys: Any
) -> None:
    (folder / "mysite").mkdir()
    (folder / "mysite" / "settings.py").write_text("")
    assert main(["init", "mysite.settings"]) == 0
    entry = (folder / "health_asgi.py").read_text()
    assert len(entry.splitlines()) == 3
    ast.parse(entry)
    ast.parse((folder / "gunicorn.conf.py").read_text())
    printed = capsys.readouterr()
    assert "gunicorn health_asgi:app" in printed.out
    assert "/readyz" in printed.out
    assert printed.err == ""


def test_the_written_files_run(folder: Path) -> None:
    assert main(["init", "mysite.settings"]) == 0
    code = (
        "import runpy; ns = runpy.run_path('gunicorn.conf.py');"
        "assert ns['wsgi_app'] == 'health_asgi:app';"
        "assert ns['workers'] == 3; assert ns['bind'][0].endswith(':4321');"
        "import health_asgi; assert repr(health_asgi.app.target) == 'mysite.settings';"
        "assert health_asgi.app.config.hold_s == 7"
    )
    paths = os.pathsep.join([str(Path(asgi_health.__file__).parents[1]), str(folder)])
    environment = {"PORT": "4321", "WEB_CONCURRENCY": "3", "HOLD_S": "7", "PYTHONPATH": paths}
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
        cwd=folder,
        timeout=50,
    )
    assert run.stderr == ""


def test_init_writes_where_it_is_told(folder: Path) -> None:
    (folder / "sub").mkdir()
    assert main(["init", "mysite.settings", "--directory", "sub"]) == 0
    assert sorted(path.name for path in (folder / "sub").iterdir()) == [
        "gunicorn.conf.py",
        "health_asgi.py",
    ]


def test_settings_that_are_not_there_are_noted(folder: Path, capsys: Any) -> None:
    assert main(["init", "mysite.settings"]) == 0
    assert "mysite.settings is not below" in capsys.readouterr().err


@pytest.mark.parametrize("existing", ["health_asgi.py", "gunicorn.conf.py"])
@pytest.mark.parametrize("kind", ["file", "folder", "link", "dangling link"])
def test_init_overwrites_nothing_and_writes_all_or_nothing(
    folder: Path, existing: str, kind: str, capsys: Any
) -> None:
    path, elsewhere = folder / existing, folder / "elsewhere"
    if kind == "file":
        path.write_text("mine")
    elif kind == "folder":
        path.mkdir()
    else:
        if kind == "link":
            elsewhere.write_text("mine")
        path.symlink_to(elsewhere)
    assert main(["init", "mysite.settings"]) == 1
    assert "nothing was written" in capsys.readouterr().err
    assert {entry.name for entry in folder.iterdir()} == {existing} | (
        {"elsewhere"} if kind == "link" else set()
    )
    if kind in {"file", "link"}:
        assert path.read_text() == "mine"


@pytest.mark.parametrize(
    "name",
    ["", ".", "a..b", "my-site.settings", "a b", "a/b", 'a"); import os', "1a", "a.", "class.x"],
)
def test_init_refuses_names_that_are_no_modules(folder: Path, name: str, capsys: Any) -> None:
    assert main(["init", name]) == 3
    assert repr(name) in capsys.readouterr().err
    assert list(folder.iterdir()) == []


def test_init_refuses_a_folder_that_is_not_there(folder: Path, capsys: Any) -> None:
    assert main(["init", "a.b", "--directory", "missing"]) == 3
    assert "allowed: a folder that exists" in capsys.readouterr().err


def test_written_files_are_not_executable(folder: Path) -> None:
    main(["init", "a.b"])
    assert not (folder / "health_asgi.py").stat().st_mode & stat.S_IXUSR
