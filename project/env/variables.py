"""Every environment variable of the product: one table, from which the documents are made.

`.env.example` and `docs/settings.md` are written from `VARIABLES` (`python -m project.env`).
"""

import math
from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["VARIABLES", "Kind", "Variable"]

Kind = Literal["text", "secret", "flag", "integer", "seconds", "list"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """One variable: how it is called, written, bounded and explained."""

    name: str
    kind: Kind
    help: str
    section: str
    default: str = ""
    default_note: str = ""
    aliases: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    minimum: float = 0
    maximum: float = math.inf


_SITE: Final = "Site"
_HEALTH: Final = "Health and boot"
_SERVER: Final = "Server"
_LOGS: Final = "Logs"
_TRACES: Final = "Traces"
_PRODUCT_ORIGINS: Final = "https://vlanet.net,https://www.vlanet.net"

VARIABLES: Final = (
    Variable(
        name="SECRET_KEY",
        kind="secret",
        section=_SITE,
        aliases=("DJANGO_SECRET_KEY",),
        help="Signs sessions and tokens. Always needed; in production 50 characters or more.",
    ),
    Variable(
        name="SECRET_KEY_FALLBACKS",
        kind="secret",
        section=_SITE,
        help="Former keys, separated by commas: accepted, no longer used to sign. For rotation.",
    ),
    Variable(
        name="DEBUG",
        kind="flag",
        section=_SITE,
        default="0",
        help="Development mode: error pages with source, plain http. Never on a public address.",
    ),
    Variable(
        name="ALLOWED_HOSTS",
        kind="list",
        section=_SITE,
        default="videoplanet.up.railway.app",
        default_note="the platform's public domain is added; DEBUG adds localhost",
        help="Host names that requests may carry. A leading dot allows subdomains.",
    ),
    Variable(
        name="PUBLIC_DOMAIN",
        kind="text",
        section=_SITE,
        aliases=(
            "RAILWAY_PUBLIC_DOMAIN",
            "RENDER_EXTERNAL_HOSTNAME",
            "HEROKU_APP_DEFAULT_DOMAIN_NAME",
        ),
        default_note="`FLY_APP_NAME`.fly.dev on Fly",
        help="The host name under which this service is reached. Platforms set it.",
    ),
    Variable(
        name="CORS_ALLOWED_ORIGINS",
        kind="list",
        section=_SITE,
        default=_PRODUCT_ORIGINS,
        default_note="DEBUG adds http://localhost:3000",
        help="Origins of browsers that may call the API with credentials. Exact, with scheme.",
    ),
    Variable(
        name="CORS_ALLOW_ALL_ORIGINS",
        kind="flag",
        section=_SITE,
        default="0",
        help="Refused when on: any page could act as its visitor. Name the origins instead.",
    ),
    Variable(
        name="CORS_ALLOWED_ORIGIN_REGEXES",
        kind="text",
        section=_SITE,
        help="Refused when set: patterns let strangers' preview domains in. Name the origins.",
    ),
    Variable(
        name="CSRF_TRUSTED_ORIGINS",
        kind="list",
        section=_SITE,
        default_note="the CORS origins and the public domain",
        help="Origins whose forms and scripts may write with a session cookie. With scheme.",
    ),
    Variable(
        name="HTTPS_ONLY",
        kind="flag",
        section=_SITE,
        default_note="on, and off with DEBUG",
        help="Redirect http to https, mark cookies secure, send HSTS.",
    ),
    Variable(
        name="HSTS_S",
        kind="integer",
        section=_SITE,
        default="31536000",
        maximum=126_144_000,
        help="Seconds for which browsers remember to use https only.",
    ),
    Variable(
        name="DATABASE_URL",
        kind="secret",
        section=_SITE,
        default="sqlite:///var/db.sqlite3",
        help="sqlite:///FILE (relative to the repository) or postgresql://USER:PASSWORD@HOST/NAME.",
    ),
    Variable(
        name="DATABASE_POOL_SIZE",
        kind="integer",
        section=_SITE,
        default="8",
        minimum=1,
        maximum=1000,
        help="Connections to PostgreSQL of each worker, at most; requests wait for a free one.",
    ),
    Variable(
        name="HEALTH_TOKEN",
        kind="secret",
        section=_HEALTH,
        help="At least 32 characters. Who sends it as Bearer sees the reasons behind a probe.",
    ),
    Variable(
        name="HEALTH_DETAILS_LOOPBACK",
        kind="flag",
        section=_HEALTH,
        default="0",
        help="Show details without a token to requests from this machine that passed no proxy.",
    ),
    Variable(
        name="HOLD_S",
        kind="seconds",
        section=_HEALTH,
        default="55",
        default_note="25 on Heroku",
        maximum=3600,
        help="How long a request waits while the application loads, before it gets a 503.",
    ),
    Variable(
        name="HOLD_LIMIT",
        kind="integer",
        section=_HEALTH,
        default="512",
        maximum=100_000,
        help="How many requests may wait at once while the application loads.",
    ),
    Variable(
        name="BOOT_DEADLINE_S",
        kind="seconds",
        section=_HEALTH,
        default="240",
        minimum=1,
        maximum=86_400,
        help="A load that takes longer has failed. Keep it below the platform's own limit.",
    ),
    Variable(
        name="FAILED_LINGER_S",
        kind="seconds",
        section=_HEALTH,
        default="60",
        maximum=86_400,
        help="How long a process whose load failed goes on answering probes before it ends.",
    ),
    Variable(
        name="HANDOFF",
        kind="text",
        section=_SERVER,
        default="auto",
        choices=("auto", "stock", "force"),
        help="How requests reach Django. stock: its own handler. force: ours, with any version.",
    ),
    Variable(
        name="HANDOFF_THREADS",
        kind="integer",
        section=_SERVER,
        default="32",
        minimum=1,
        maximum=1000,
        help="How many requests may run synchronous code at once, in each worker; more wait.",
    ),
    Variable(
        name="PORT",
        kind="integer",
        section=_SERVER,
        default="8000",
        minimum=1,
        maximum=65_535,
        help="The port to listen on. Platforms set it.",
    ),
    Variable(
        name="WEB_CONCURRENCY",
        kind="integer",
        section=_SERVER,
        default_note="1 with SQLite, else one a core, at most 4",
        minimum=1,
        maximum=256,
        help="How many worker processes serve.",
    ),
    Variable(
        name="WARM_BOOT",
        kind="flag",
        section=_SERVER,
        default="1",
        help="Load once and fork the workers; 0: each worker loads by itself.",
    ),
    Variable(
        name="DRAIN_S",
        kind="seconds",
        section=_SERVER,
        default="5",
        default_note="2 on Railway, 3 on Heroku, 0 on Render and with DEBUG",
        maximum=3600,
        help="How long a stopping server goes on accepting, so that balancers notice.",
    ),
    Variable(
        name="GRACEFUL_S",
        kind="integer",
        section=_SERVER,
        default="25",
        default_note="20 on Heroku",
        maximum=3600,
        help="How long a stopping worker may take to finish its requests.",
    ),
    Variable(
        name="READY_WORKERS_MIN",
        kind="integer",
        section=_SERVER,
        default="1",
        minimum=1,
        maximum=256,
        help="How many workers must be ready before the service is. At most WEB_CONCURRENCY.",
    ),
    Variable(
        name="CRASH_WINDOW_S",
        kind="seconds",
        section=_SERVER,
        default="60",
        minimum=1,
        maximum=86_400,
        help="A worker that dies this soon after its start makes the next one wait.",
    ),
    Variable(
        name="CRASH_LIMIT",
        kind="integer",
        section=_SERVER,
        default="5",
        minimum=2,
        maximum=1000,
        help="This many deaths within CRASH_WINDOW_S are a crash loop: readiness says so.",
    ),
    Variable(
        name="ON_CRASH_LOOP",
        kind="text",
        section=_SERVER,
        default="serve",
        choices=("serve", "exit"),
        help="serve: the workers that are left go on. exit: the server ends.",
    ),
    Variable(
        name="WORKER_RSS_LIMIT_MIB",
        kind="integer",
        section=_SERVER,
        default="0",
        maximum=1_048_576,
        help="A worker that occupies more memory finishes and is replaced. 0: no limit.",
    ),
    Variable(
        name="LOOP_LAG_WARN_S",
        kind="seconds",
        section=_SERVER,
        default="1",
        maximum=3600,
        help="A loop that is blocked for longer has its stack logged. 0: never.",
    ),
    Variable(
        name="PIN_WORKERS",
        kind="flag",
        section=_SERVER,
        default="0",
        help="Keep each worker on one core: for machines whose cores are this service's alone.",
    ),
    Variable(
        name="FORWARDED_ALLOW_IPS",
        kind="list",
        section=_SERVER,
        default_note="127.0.0.1,::1; the router's networks on Railway, Heroku, Render, Fly",
        help="Addresses or networks of proxies whose X-Forwarded-For and -Proto are believed.",
    ),
    Variable(
        name="CLIENT_ADDRESS_HEADER",
        kind="text",
        section=_SERVER,
        default_note="X-Real-IP on Railway, Fly-Client-IP on Fly",
        help="The header in which those proxies name the client, if X-Forwarded-For is not it.",
    ),
    Variable(
        name="RELEASE",
        kind="text",
        section=_LOGS,
        aliases=(
            "RAILWAY_GIT_COMMIT_SHA",
            "RENDER_GIT_COMMIT",
            "HEROKU_BUILD_COMMIT",
            "HEROKU_SLUG_COMMIT",
            "FLY_MACHINE_VERSION",
        ),
        help="Which version runs: in every log line and on the status page. Platforms set it.",
    ),
    Variable(
        name="INSTANCE",
        kind="text",
        section=_LOGS,
        aliases=("RAILWAY_REPLICA_ID", "RENDER_INSTANCE_ID", "FLY_MACHINE_ID", "DYNO"),
        help="Which copy of the service this is: in every log line. Platforms set it.",
    ),
    Variable(
        name="LOG_LEVEL",
        kind="text",
        section=_LOGS,
        default="info",
        choices=("debug", "info", "warning", "error"),
        help="The least severe messages that are written.",
    ),
    Variable(
        name="LOG_FORMAT",
        kind="text",
        section=_LOGS,
        default="auto",
        choices=("auto", "json", "text"),
        help="json: one object a line. text: for people. auto: text on a terminal, else json.",
    ),
    Variable(
        name="ACCESS_LOG_LINES_PER_S",
        kind="integer",
        section=_LOGS,
        default="100",
        maximum=100_000,
        help="Access lines of each worker: at most so many a second, of failures as many again.",
    ),
    Variable(
        name="ENV_FILE",
        kind="text",
        section=_LOGS,
        default=".env",
        help="A file of NAME=value lines that the environment overrides. /dev/null for none.",
    ),
    Variable(
        name="OTEL_EXPORTER_OTLP_ENDPOINT",
        kind="text",
        section=_TRACES,
        help="Where OpenTelemetry's collector takes OTLP over HTTP. Given, traces are on.",
    ),
    Variable(
        name="OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        kind="text",
        section=_TRACES,
        help="The whole address for traces, if it is not OTEL_EXPORTER_OTLP_ENDPOINT/v1/traces.",
    ),
    Variable(
        name="OTEL_TRACES_EXPORTER",
        kind="text",
        section=_TRACES,
        default_note="`otlp` with an endpoint, `none` without",
        choices=("otlp", "console", "none"),
        help="otlp: to the collector. console: to standard output. none: no traces.",
    ),
    Variable(
        name="OTEL_SDK_DISABLED",
        kind="flag",
        section=_TRACES,
        default="0",
        help="No traces, whatever else is set. The other OTEL_ variables: docs/operations.md.",
    ),
)
