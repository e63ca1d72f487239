"""Turn a database URL into the values of Django's `DATABASES`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

__all__ = ["Database", "DatabaseUrlError", "parse_database_url"]

_ALLOWED: Final = "Allowed: sqlite:///FILE or postgresql://USER:PASSWORD@HOST:PORT/NAME."
_SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_TEXT_OPTIONS: Final = ("application_name", "options", "sslrootcert", "target_session_attrs")
_CONNECT_TIMEOUT_S: Final = 5
_SQLITE_OPTIONS: Final[Mapping[str, object]] = {
    "timeout": 20,
    # A write lock from the start: a transaction that reads first and writes later would fail with
    # "database is locked" at once, however long the time-out.
    "transaction_mode": "IMMEDIATE",
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
}


class DatabaseUrlError(ValueError):
    """The URL cannot be used; the sentence never shows it, because it may hold a password."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """One database, in Django's terms. `options` are handed to the driver."""

    engine: str
    name: str
    user: str = ""
    password: str = field(default="", repr=False)
    host: str = ""
    port: str = ""
    options: Mapping[str, object] = field(default_factory=dict)

    @property
    def embedded(self) -> bool:
        """Whether it is a file of this machine, which no other replica sees."""
        return self.engine.endswith("sqlite3")


def parse_database_url(url: str, *, root: Path) -> Database:
    """Return the database that `url` names; a relative file starts at `root`.

    Raises:
        DatabaseUrlError: the URL is malformed, of an unknown kind, or its driver is missing.
    """
    try:
        parts = urlsplit(url)
        port = str(parts.port or "")
    except ValueError:
        raise DatabaseUrlError(f"DATABASE_URL is not a URL. {_ALLOWED}") from None
    if parts.scheme == "sqlite":
        return _sqlite(parts, root=root)
    if parts.scheme in {"postgres", "postgresql"}:
        return _postgresql(parts, port=port)
    raise DatabaseUrlError(f"DATABASE_URL has an unknown scheme. {_ALLOWED}")


def _sqlite(parts: SplitResult, *, root: Path) -> Database:
    name = unquote(parts.path).removeprefix("/")
    if parts.netloc or parts.query or name in {"", ":memory:"} or name.endswith("/"):
        raise DatabaseUrlError(
            "DATABASE_URL names no SQLite file. Allowed: sqlite:///FILE, relative to the "
            "repository, or sqlite:////FILE, absolute."
        )
    return Database(
        engine="django.db.backends.sqlite3", name=str(root / name), options=dict(_SQLITE_OPTIONS)
    )


def _postgresql(parts: SplitResult, *, port: str) -> Database:
    name = unquote(parts.path).strip("/")
    if not name:
        raise DatabaseUrlError(f"DATABASE_URL names no database. {_ALLOWED}")
    if find_spec("psycopg") is None:
        raise DatabaseUrlError(
            "DATABASE_URL asks for PostgreSQL, whose driver psycopg is not installed here. "
            "Install it, or use sqlite:///FILE."
        )
    return Database(
        engine="django.db.backends.postgresql",
        name=name,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        host=unquote(parts.hostname or ""),
        port=port,
        options=_postgresql_options(parts.query),
    )


def _postgresql_options(query: str) -> dict[str, object]:
    options: dict[str, object] = {
        "sslmode": "prefer",
        "connect_timeout": _CONNECT_TIMEOUT_S,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
    }
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name == "sslmode" and value in _SSL_MODES:
            options[name] = value
        elif name == "connect_timeout" and value.isascii() and value.isdigit() and int(value) > 0:
            options[name] = int(value)
        elif name in _TEXT_OPTIONS:
            options[name] = value
        else:
            raise DatabaseUrlError(
                f"DATABASE_URL has a wrong option {name!r}. Allowed: "
                f"sslmode ({', '.join(_SSL_MODES)}), connect_timeout (seconds), "
                f"{', '.join(_TEXT_OPTIONS)}."
            )
    return options
