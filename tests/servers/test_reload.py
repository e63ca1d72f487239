"""`uvicorn --reload` with a gate: new code is served, also after a boot that failed."""

from pathlib import Path

import pytest

from tests.servers.conftest import Run
from tests.servers.harness import APPS, UVICORN, Server, until

GATE = (APPS / "gated.py").read_text(encoding="utf-8")
CODE = """\
async def app(scope, receive, send):
    assert scope["type"] == "http"
    headers = [(b"content-length", b"{length}")]
    await send({{"type": "http.response.start", "status": 200, "headers": headers}})
    await send({{"type": "http.response.body", "body": b"{word}"}})
"""


def _code(word: str) -> str:
    return CODE.format(word=word, length=len(word))


def _write(folder: Path, code: str) -> None:
    """Save the application as an editor does, in one step."""
    draft = folder / "draft"
    draft.write_text(code, encoding="utf-8")
    draft.rename(folder / "edited.py")


def _edit(server: Server, folder: Path, code: str) -> None:
    """Save until it is noticed: Uvicorn does not say when it has begun to watch."""
    before = server.log.count("detected changes")

    def is_noticed() -> bool:
        _write(folder, code)
        return server.log.count("detected changes") > before

    until(is_noticed, "a reload", pause_s=0.3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "code"
    made.mkdir()
    (made / "gated.py").write_text(GATE, encoding="utf-8")
    _write(made, _code("first"))
    return made


def _start(run: Run, folder: Path, *, linger_s: str = "600") -> Server:
    arguments = (*UVICORN.arguments, "--reload", "gated:app")
    env = {"TARGET": "edited:app", "FAILED_LINGER_S": linger_s}
    return run(arguments, env=env, directory=folder)


def _serves(server: Server, word: str, *, path: str = "/hello") -> bool:
    """Whether new connections get this answer; the old process resets some while it ends."""
    try:
        return server.ask(path).text == word
    except ConnectionError:
        return False


def test_changed_code_is_served(run: Run, folder: Path) -> None:
    server = _start(run, folder)
    until(lambda: _serves(server, "first"), "the first code")

    _edit(server, folder, _code("second"))

    until(lambda: _serves(server, "second"), f"the second code; the log:\n{server.log}")
    until(lambda: _serves(server, "ok", path="/readyz"), "readiness")


@pytest.mark.parametrize("linger_s", ["600", "0"], ids=["answers on", "has ended"])
def test_repaired_code_is_served_after_a_boot_that_failed(
    linger_s: str, run: Run, folder: Path
) -> None:
    server = _start(run, folder, linger_s=linger_s)
    until(lambda: _serves(server, "first"), "the first code")

    _edit(server, folder, "def app(:\n")
    server.wait_for_log("boot failed: boot.import_error: SyntaxError")
    if linger_s == "600":
        # the reloader may have seen one save as two, and boot once more
        until(lambda: _serves(server, "boot.import_error", path="/livez"), "the reason")
    _edit(server, folder, _code("repaired"))

    until(lambda: _serves(server, "repaired"), f"the repaired code; the log:\n{server.log}")
    until(lambda: _serves(server, "ok", path="/readyz"), "readiness")
