"""`Env`: everything that the product takes from its environment, with all problems at once."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final, Literal, Self
from urllib.parse import unquote

from asgi_health.errors import LoadError
from project.env import rules
from project.env.database import Database, DatabaseUrlError, parse_database_url
from project.env.platforms import Platform, detect
from project.env.reading import Reader, read_file

__all__ = ["ROOT", "Database", "Env", "InvalidEnvironment", "current"]

ROOT: Final = Path(__file__).resolve().parent.parent.parent
"""The folder of the repository: relative paths start here, whatever the current folder is."""

_WORKERS_MAX: Final = 4
_KEY_LENGTH_MIN: Final = 16
_DEBUG_HOSTS: Final = ("localhost", "127.0.0.1", "[::1]")
_DEBUG_ORIGINS: Final = ("http://localhost:3000",)
_DEFAULT_DATABASE: Final = "sqlite:///var/db.sqlite3"


class InvalidEnvironment(LoadError):
    """The environment cannot be used; `problems` holds one sentence each."""

    code = "env.invalid"

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        listed = "\n".join(f"  - {problem}" for problem in self.problems)
        super().__init__(f"The environment has {len(self.problems)} problem(s):\n{listed}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Env:
    """The environment, typed. Numbers carry their unit; None means not given.

    Values that could not be read hold their defaults, and `problems` says so: call `check` before
    anything but the health part is built on them.
    """

    debug: bool
    secret_key: str = field(repr=False)
    secret_key_fallbacks: tuple[str, ...] = field(repr=False)
    allowed_hosts: tuple[str, ...]
    cors_origins: tuple[str, ...]
    csrf_origins: tuple[str, ...]
    https_only: bool
    hsts_s: int
    database: Database
    database_pool_size: int
    health_token: str | None = field(repr=False)
    health_details_loopback: bool
    hold_s: float
    hold_limit: int
    boot_deadline_s: float
    failed_linger_s: float
    port: int
    web_concurrency: int
    warm_boot: bool
    drain_s: float
    graceful_s: int
    ready_workers_min: int
    crash_window_s: float
    crash_limit: int
    on_crash_loop: Literal["serve", "exit"]
    worker_rss_limit_mib: int
    loop_lag_warn_s: float
    pin_workers: bool
    handoff: str
    handoff_threads: int
    forwarded_allow_ips: tuple[str, ...]
    client_address_header: str
    request_id_header: str
    release: str | None
    instance: str | None
    log_level: str
    log_format: str
    access_log_lines_per_s: int
    traces_exporter: Literal["otlp", "console", "none"]
    otel: tuple[tuple[str, str], ...] = field(repr=False)
    """Every variable of OpenTelemetry, by name: its SDK reads most of them by itself."""
    problems: tuple[str, ...] = ()

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Self:
        """Read `environ` over the file that its `ENV_FILE` names. Never raises.

        Blocking: reads one small file.
        """
        path = ROOT / (environ.get("ENV_FILE") or ".env")
        values, problems = read_file(path, required=bool(environ.get("ENV_FILE")))
        given = {name: value for name, value in environ.items() if value.strip()}
        reader = Reader({**values, **given}, problems)
        platform = detect(given)
        debug = reader.flag("DEBUG")
        database = _database(reader)
        origins = _origins(reader, debug=debug)
        domain = _public_domain(reader, environ)
        workers = reader.integer("WEB_CONCURRENCY", default=_workers(database))
        return cls(
            debug=debug,
            secret_key=_secret_key(reader, strict=not debug),
            secret_key_fallbacks=_fallback_keys(reader, strict=not debug),
            allowed_hosts=_hosts(reader, domain=domain, debug=debug),
            cors_origins=origins,
            csrf_origins=_csrf_origins(reader, origins=origins, domain=domain),
            https_only=reader.flag("HTTPS_ONLY", default=not debug),
            hsts_s=reader.integer("HSTS_S"),
            database=database,
            database_pool_size=reader.integer("DATABASE_POOL_SIZE"),
            health_token=_health_token(reader),
            health_details_loopback=reader.flag("HEALTH_DETAILS_LOOPBACK"),
            hold_s=reader.seconds("HOLD_S", default=platform.hold_s),
            hold_limit=reader.integer("HOLD_LIMIT"),
            boot_deadline_s=reader.seconds("BOOT_DEADLINE_S"),
            failed_linger_s=reader.seconds("FAILED_LINGER_S"),
            port=reader.integer("PORT"),
            web_concurrency=workers,
            warm_boot=reader.flag("WARM_BOOT"),
            # While developing no balancer has to notice, and each restart would wait.
            drain_s=reader.seconds("DRAIN_S", default="0" if debug else platform.drain_s),
            graceful_s=reader.integer("GRACEFUL_S", default=platform.graceful_s),
            ready_workers_min=_ready_workers_min(reader, workers=workers),
            crash_window_s=reader.seconds("CRASH_WINDOW_S"),
            crash_limit=reader.integer("CRASH_LIMIT"),
            on_crash_loop="exit" if reader.text("ON_CRASH_LOOP") == "exit" else "serve",
            worker_rss_limit_mib=reader.integer("WORKER_RSS_LIMIT_MIB"),
            loop_lag_warn_s=reader.seconds("LOOP_LAG_WARN_S"),
            pin_workers=reader.flag("PIN_WORKERS"),
            handoff=reader.text("HANDOFF"),
            handoff_threads=reader.integer("HANDOFF_THREADS"),
            forwarded_allow_ips=_proxies(reader, platform),
            client_address_header=_address_header(reader, platform),
            request_id_header=platform.request_id_header,
            release=reader.text("RELEASE") or None,
            instance=reader.text("INSTANCE") or None,
            log_level=reader.text("LOG_LEVEL"),
            log_format=reader.text("LOG_FORMAT"),
            access_log_lines_per_s=reader.integer("ACCESS_LOG_LINES_PER_S"),
            traces_exporter=_traces_exporter(reader),
            otel=_otel({**values, **given}),
            problems=reader.finish(),
        )

    @property
    def secrets(self) -> tuple[str, ...]:
        """Whatever must appear in no log line and no trace."""
        found = (self.secret_key, *self.secret_key_fallbacks, self.health_token)
        return tuple(filter(None, (*found, self.database.password, *_otel_secrets(self.otel))))

    def check(self) -> None:
        """Raise when something is wrong.

        Raises:
            InvalidEnvironment: with every problem.
        """
        if self.problems:
            raise InvalidEnvironment(self.problems)


@cache
def current() -> Env:
    """Return the environment of this process; it is read at the first call only."""
    return Env.read(os.environ)


def _secret_key(reader: Reader, *, strict: bool) -> str:
    key = reader.secret("SECRET_KEY")
    reader.problems.extend(rules.key_problems("SECRET_KEY", key, strict=strict))
    return key


def _fallback_keys(reader: Reader, *, strict: bool) -> tuple[str, ...]:
    parts = (part.strip() for part in reader.secret("SECRET_KEY_FALLBACKS").split(","))
    keys = tuple(part for part in parts if part)
    for key in keys:
        reader.problems.extend(rules.key_problems("SECRET_KEY_FALLBACKS", key, strict=strict))
    return keys


def _health_token(reader: Reader) -> str | None:
    token = reader.secret("HEALTH_TOKEN")
    problems = rules.token_problems("HEALTH_TOKEN", token)
    reader.problems.extend(problems)
    return token if token and not problems else None


def _public_domain(reader: Reader, environ: Mapping[str, str]) -> str:
    app = environ.get("FLY_APP_NAME", "").strip()
    return reader.text("PUBLIC_DOMAIN") or (f"{app}.fly.dev" if app else "")


def _hosts(reader: Reader, *, domain: str, debug: bool) -> tuple[str, ...]:
    named = (*reader.names("ALLOWED_HOSTS"), *((domain,) if domain else ()))
    reader.problems.extend(rules.host_problems("ALLOWED_HOSTS", named, strict=not debug))
    return tuple(dict.fromkeys((*named, *(_DEBUG_HOSTS if debug else ()))))


def _origins(reader: Reader, *, debug: bool) -> tuple[str, ...]:
    if reader.flag("CORS_ALLOW_ALL_ORIGINS"):
        reader.problems.append(
            "CORS_ALLOW_ALL_ORIGINS is on, while credentials are allowed: any page could act as "
            "its visitor. Name the origins in CORS_ALLOWED_ORIGINS."
        )
    if reader.text("CORS_ALLOWED_ORIGIN_REGEXES"):
        reader.problems.append(
            "CORS_ALLOWED_ORIGIN_REGEXES is set, while credentials are allowed: a pattern lets "
            "strangers' domains in. Name the origins in CORS_ALLOWED_ORIGINS."
        )
    origins = _legal_origins(reader, "CORS_ALLOWED_ORIGINS", reader.names("CORS_ALLOWED_ORIGINS"))
    return tuple(dict.fromkeys((*origins, *(_DEBUG_ORIGINS if debug else ()))))


def _csrf_origins(reader: Reader, *, origins: tuple[str, ...], domain: str) -> tuple[str, ...]:
    named = reader.names("CSRF_TRUSTED_ORIGINS")
    if named:
        return _legal_origins(reader, "CSRF_TRUSTED_ORIGINS", named)
    return tuple(dict.fromkeys((*origins, *((f"https://{domain}",) if domain else ()))))


def _legal_origins(reader: Reader, name: str, origins: Iterable[str]) -> tuple[str, ...]:
    found = [(origin, rules.origin_problems(name, [origin])) for origin in origins]
    reader.problems.extend(problem for _, problems in found for problem in problems)
    return tuple(origin for origin, problems in found if not problems)


def _proxies(reader: Reader, platform: Platform) -> tuple[str, ...]:
    named = reader.names("FORWARDED_ALLOW_IPS", default=platform.proxies)
    problems = rules.proxy_problems("FORWARDED_ALLOW_IPS", named)
    reader.problems.extend(problems)
    return tuple(platform.proxies.split(",")) if problems else named


def _address_header(reader: Reader, platform: Platform) -> str:
    named = reader.text("CLIENT_ADDRESS_HEADER") or platform.address_header
    problems = rules.header_problems("CLIENT_ADDRESS_HEADER", named)
    reader.problems.extend(problems)
    return "" if problems else named.lower()


def _database(reader: Reader) -> Database:
    try:
        return parse_database_url(reader.secret("DATABASE_URL"), root=ROOT)
    except DatabaseUrlError as error:
        reader.problems.append(str(error))
        return parse_database_url(_DEFAULT_DATABASE, root=ROOT)


def _workers(database: Database) -> str:
    # On the embedded defaults, rate limits and live messages reach one process only.
    return "1" if database.embedded else str(min(os.cpu_count() or 1, _WORKERS_MAX))


def _traces_exporter(reader: Reader) -> Literal["otlp", "console", "none"]:
    named = reader.text("OTEL_TRACES_EXPORTER")
    endpoints = [
        reader.text(name)
        for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    ]
    if reader.flag("OTEL_SDK_DISABLED") or named == "none":
        return "none"
    if named == "console":
        return "console"
    return "otlp" if named or any(endpoints) else "none"


def _otel(values: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(pair for pair in values.items() if pair[0].startswith("OTEL_")))


def _otel_secrets(variables: Iterable[tuple[str, str]]) -> Iterable[str]:
    """The values of the headers that the exporter sends: keys of the receiver."""
    for name, value in variables:
        if name.startswith("OTEL_EXPORTER_") and name.endswith("_HEADERS"):
            for header in value.split(","):
                found = unquote(header.partition("=")[2].strip())
                if len(found) >= _KEY_LENGTH_MIN:  # a shorter one names a tenant
                    yield found


def _ready_workers_min(reader: Reader, *, workers: int) -> int:
    least = reader.integer("READY_WORKERS_MIN")
    if least > workers:
        reader.problems.append(
            f"READY_WORKERS_MIN is {least}, more than the {workers} worker(s): the service would "
            "never be ready. Allowed: at most WEB_CONCURRENCY."
        )
        return workers
    return least
