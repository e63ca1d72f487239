"""The scripts explain themselves, work from any folder, and never harm what is there."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from project.env import ROOT

SCRIPTS = ["bench", "check", "django-suite", "format", "serve", "setup", "soak", "test"]
BASH = shutil.which("bash") or "/bin/bash"


def run(*command: str | Path, cwd: Path = ROOT, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    return subprocess.run(
        [BASH, *map(str, command)], cwd=cwd, env=env | environ, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_a_script_explains_itself_from_any_folder(name: str, option: str, tmp_path: Path) -> None:
    made = run(ROOT / "scripts" / name, option, cwd=tmp_path)

    assert (made.returncode, made.stderr) == (0, "")
    assert f"scripts/{name}" in made.stdout
    assert not made.stdout.startswith("#")
    assert "set -" not in made.stdout
    assert list(tmp_path.iterdir()) == []


def test_every_script_is_tested_here_and_can_be_executed() -> None:
    names = {path.name for path in (ROOT / "scripts").iterdir() if path.is_file()}
    assert names == set(SCRIPTS)
    for path in [*(ROOT / "scripts").iterdir(), ROOT / ".ci" / "run", ROOT / "manage.py"]:
        if path.is_file():
            assert path.stat().st_mode & stat.S_IXUSR, path


@pytest.mark.parametrize("name", ["check", "setup", "bench", "soak"])
def test_an_unknown_option_is_refused(name: str) -> None:
    assert run(ROOT / "scripts" / name, "--no-such-option").returncode == 2


@pytest.fixture
def bare_tools(tmp_path: Path) -> Path:
    """A folder of programs with everything that the scripts use, but Python."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "cat", "dirname", "sed", "mv", "rm", "mktemp"):
        (tools / name).symlink_to(shutil.which(name) or f"/bin/{name}")
    return tools


def clone(target: Path) -> Path:
    """What git would check out, with today's changes."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith(("tests/", "benchmarks/", "docs/")):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


def test_without_python_the_setup_says_what_it_needs(bare_tools: Path, tmp_path: Path) -> None:
    copy = clone(tmp_path / "clone")

    made = run(copy / "scripts" / "setup", PATH=str(bare_tools), PYTHON="")

    assert made.returncode == 1
    assert "no Python 3.11 or newer found" in made.stderr
    assert not (copy / ".venv").exists()


def test_an_old_python_is_passed_over(bare_tools: Path, tmp_path: Path) -> None:
    copy = clone(tmp_path / "clone")
    old = bare_tools / "python3"
    old.write_text("#!/bin/bash\nexit 1\n")  # sys.version_info < (3, 11)
    old.chmod(0o755)

    made = run(copy / "scripts" / "setup", PATH=str(bare_tools), PYTHON="")

    assert "no Python 3.11 or newer found" in made.stderr


def test_a_named_python_that_does_not_run_is_refused(tmp_path: Path) -> None:
    made = run(clone(tmp_path / "clone") / "scripts" / "setup", PYTHON="/there/is/none")

    assert made.returncode == 1
    assert "PYTHON=/there/is/none" in made.stderr


@pytest.fixture
def ready_clone(tmp_path: Path) -> Path:
    """A clone whose environment is the one that the tests run in."""
    environment = Path(sys.prefix)
    if not (environment / ".made-for-dev").exists():
        pytest.skip("this environment was not made by scripts/setup")
    copy = clone(tmp_path / "clone")
    (copy / ".venv").symlink_to(environment)
    return copy


def test_serve_makes_a_private_key_and_a_database_once(
    ready_clone: Path, tmp_path: Path, unused_port: int
) -> None:
    serve = ready_clone / "scripts" / "serve"
    environ = {"ENV_FILE": "", "SECRET_KEY": "", "ALLOWED_HOSTS": "", "HTTPS_ONLY": ""}
    environ |= {"HEALTH_TOKEN": "", "PORT": str(unused_port)}

    first = run(serve, "--check-config", cwd=tmp_path, **environ)
    made = (ready_clone / ".env").read_text()
    second = run(serve, "--check-config", cwd=tmp_path, **environ)

    assert first.returncode == 0, first.stderr
    assert second.returncode == 0, second.stderr
    assert stat.S_IMODE((ready_clone / ".env").stat().st_mode) == 0o600
    assert "DEBUG=1\nHEALTH_DETAILS_LOOPBACK=1\n" in made
    assert (ready_clone / ".env").read_text() == made
    assert (ready_clone / "var" / "db.sqlite3").exists()
    for path in ("/", "/admin/", "/api/docs", "/statusz"):
        assert f"http://localhost:{unused_port}{path}\n" in first.stdout
    assert "createsuperuser" in first.stdout
    key = made.partition("SECRET_KEY=")[2].partition("\n")[0]
    assert len(key) >= 50
    assert key not in first.stdout + first.stderr
    assert sorted(path.name for path in ready_clone.glob(".env*")) == [".env", ".env.example"]


def test_serve_says_that_the_port_is_taken(ready_clone: Path, taken_port: int) -> None:
    made = run(
        ready_clone / "scripts" / "serve", "--check-config",
        ENV_FILE="", SECRET_KEY="", ALLOWED_HOSTS="", HTTPS_ONLY="", PORT=str(taken_port),
    )  # fmt: skip

    assert made.returncode == 1
    assert f"port {taken_port} cannot be used" in made.stderr
    assert f"PORT={taken_port + 1} scripts/serve" in made.stderr


def test_serve_lists_what_is_wrong_with_the_environment(ready_clone: Path) -> None:
    (ready_clone / ".env").write_text("PORT=none\n")

    made = run(
        ready_clone / "scripts" / "serve", "--check-config",
        ENV_FILE="", SECRET_KEY="", ALLOWED_HOSTS="", HTTPS_ONLY="",
    )  # fmt: skip

    assert made.returncode == 1
    assert "SECRET_KEY is missing" in made.stderr
    assert "PORT is 'none'" in made.stderr
    assert (ready_clone / ".env").read_text() == "PORT=none\n"


def test_the_setup_does_nothing_when_the_lock_is_unchanged(ready_clone: Path) -> None:
    made = run(ready_clone / "scripts" / "setup")

    assert (made.returncode, made.stdout, made.stderr) == (0, "", "")
