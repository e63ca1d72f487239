"""The environment: every rule, every problem at once, and never an exception while reading."""

import math
import os
import secrets
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_health.errors import LoadError
from project.env import ROOT, Env, InvalidEnvironment
from project.env.database import Database, DatabaseUrlError, parse_database_url
from project.env.reading import Reader, read_file
from project.env.variables import VARIABLES

KEY = "p7Vd2mXq9sLrT4wZyB6nKfJhGcA1uE8oRiQtSxCvNbMlPzYaWkD3"
TOKEN = "t0ken-of-thirty-two-characters-or-more"


def read(**environ: str) -> Env:
    """Read these variables, and no file."""
    return Env.read({"ENV_FILE": os.devnull, "SECRET_KEY": KEY, **environ})


def problems(**environ: str) -> str:
    return "\n".join(read(**environ).problems)


def test_the_defaults_are_those_of_the_product_in_production() -> None:
    env = read()

    assert env.problems == ()
    assert env.debug is False
    assert env.https_only is True
    assert env.allowed_hosts == ("videoplanet.up.railway.app",)
    assert env.cors_origins == ("https://vlanet.net", "https://www.vlanet.net")
    assert env.csrf_origins == env.cors_origins
    assert env.database.engine == "django.db.backends.sqlite3"
    assert env.database.name == str(ROOT / "var" / "db.sqlite3")
    assert (env.port, env.web_concurrency, env.graceful_s) == (8000, 1, 25)
    assert (env.hold_s, env.hold_limit, env.boot_deadline_s, env.failed_linger_s) == (
        55, 512, 240, 60,
    )  # fmt: skip
    assert (env.drain_s, env.warm_boot, env.ready_workers_min) == (5, True, 1)
    assert (env.crash_window_s, env.crash_limit, env.on_crash_loop) == (60, 5, "serve")
    assert (env.worker_rss_limit_mib, env.loop_lag_warn_s, env.pin_workers) == (0, 1, False)
    assert env.health_token is None
    assert env.forwarded_allow_ips == ("127.0.0.1", "::1")


CHANGES = {
    "SECRET_KEY": KEY[::-1],
    "SECRET_KEY_FALLBACKS": KEY[::-1],
    "DEBUG": "1",
    "ALLOWED_HOSTS": "other.example",
    "PUBLIC_DOMAIN": "public.example",
    "CORS_ALLOWED_ORIGINS": "https://other.example",
    "CORS_ALLOW_ALL_ORIGINS": "1",
    "CORS_ALLOWED_ORIGIN_REGEXES": "^https://.*$",
    "CSRF_TRUSTED_ORIGINS": "https://other.example",
    "HTTPS_ONLY": "0",
    "HSTS_S": "60",
    "DATABASE_URL": "sqlite:///var/other.sqlite3",
    "DATABASE_POOL_SIZE": "3",
    "HEALTH_TOKEN": TOKEN,
    "HEALTH_DETAILS_LOOPBACK": "1",
    "HOLD_S": "1.5",
    "HOLD_LIMIT": "7",
    "BOOT_DEADLINE_S": "30",
    "FAILED_LINGER_S": "0",
    "PORT": "9000",
    "WEB_CONCURRENCY": "3",
    "WARM_BOOT": "0",
    "DRAIN_S": "1.5",
    "GRACEFUL_S": "5",
    "READY_WORKERS_MIN": "2",
    "CRASH_WINDOW_S": "30",
    "CRASH_LIMIT": "3",
    "ON_CRASH_LOOP": "exit",
    "WORKER_RSS_LIMIT_MIB": "512",
    "LOOP_LAG_WARN_S": "0",
    "PIN_WORKERS": "1",
    "FORWARDED_ALLOW_IPS": "10.1.2.3",
    "CLIENT_ADDRESS_HEADER": "X-Real-IP",
    "HANDOFF": "stock",
    "HANDOFF_THREADS": "8",
    "RELEASE": "abc123",
    "INSTANCE": "replica-1",
    "LOG_LEVEL": "debug",
    "LOG_FORMAT": "json",
    "ACCESS_LOG_LINES_PER_S": "0",
    "ENV_FILE": "/there/is/no/such/file",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector.example:4318",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector.example:4318/v1/traces",
    "OTEL_TRACES_EXPORTER": "console",
    "OTEL_SDK_DISABLED": "true",
}


def test_every_declared_variable_has_an_example_here() -> None:
    assert set(CHANGES) == {variable.name for variable in VARIABLES}


@pytest.mark.parametrize("name", CHANGES)
def test_every_declared_variable_changes_something(name: str) -> None:
    several = {"WEB_CONCURRENCY": "2"} if name == "READY_WORKERS_MIN" else {}
    assert read(**several, **{name: CHANGES[name]}) != read(**several)


@pytest.mark.parametrize("variable", VARIABLES, ids=lambda variable: variable.name)
def test_an_alias_is_read_and_the_proper_name_wins(variable) -> None:
    for alias in variable.aliases:
        base = {"ENV_FILE": os.devnull}
        by_name = Env.read({**base, variable.name: CHANGES[variable.name]})
        by_alias = Env.read({**base, alias: CHANGES[variable.name]})
        by_both = Env.read(
            {**base, alias: "ignored.example", variable.name: CHANGES[variable.name]}
        )

        assert _value(by_alias, variable.name) == _value(by_name, variable.name)
        assert _value(by_both, variable.name) == _value(by_name, variable.name)


def _value(env: Env, name: str) -> object:
    fields = {
        "SECRET_KEY": env.secret_key,
        "PUBLIC_DOMAIN": env.allowed_hosts,
        "RELEASE": env.release,
        "INSTANCE": env.instance,
    }
    return fields[name]


def test_all_problems_come_in_one_message() -> None:
    env = Env.read(
        {
            "ENV_FILE": os.devnull,
            "ALLOWED_HOSTS": "*",
            "CORS_ALLOWED_ORIGINS": "vlanet.net",
            "DATABASE_URL": "mysql://somewhere/else",
            "HEALTH_TOKEN": "short",
            "HOLD_S": "soon",
            "PORT": "http",
        }
    )

    with pytest.raises(InvalidEnvironment) as caught:
        env.check()

    assert isinstance(caught.value, LoadError)
    assert caught.value.code == "env.invalid"
    assert caught.value.problems == env.problems
    names = ("SECRET_KEY", "ALLOWED_HOSTS", "CORS_ALLOWED_ORIGINS", "DATABASE_URL")
    for name in (*names, "HEALTH_TOKEN", "HOLD_S", "PORT"):
        assert name in str(caught.value)
    assert len(env.problems) == 7


def test_a_bad_value_leaves_a_usable_default() -> None:
    env = read(
        HOLD_S="soon", PORT="70000", HEALTH_TOKEN="short", FORWARDED_ALLOW_IPS="everyone",
        CORS_ALLOWED_ORIGINS="*,https://good.example", DEBUG="perhaps", LOG_LEVEL="shout",
    )  # fmt: skip

    assert (env.hold_s, env.port, env.health_token, env.debug) == (55, 8000, None, False)
    assert env.forwarded_allow_ips == ("127.0.0.1", "::1")
    assert env.cors_origins == ("https://good.example",)
    assert env.log_level == "info"
    assert len(env.problems) == 7


def test_check_passes_when_nothing_is_wrong() -> None:
    read().check()


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("", "missing"),
        (KEY[:49], "49 characters"),
        ("abcabcab" * 8, "3 distinct"),
        ("django-insecure-" + KEY, "'insecure'"),
        ("INSECURE" + KEY, "'insecure'"),
        ("change-me-" + KEY, "published"),
        ("your_secret_key_here_" + KEY, "published"),
    ],
)
def test_production_refuses_a_weak_key(key: str, reason: str) -> None:
    found = problems(SECRET_KEY=key)

    assert "SECRET_KEY" in found
    assert reason in found
    assert not key or key not in found


def test_development_takes_a_short_key_but_not_none() -> None:
    assert problems(SECRET_KEY="short", DEBUG="1") == ""
    assert "SECRET_KEY is missing" in problems(SECRET_KEY="", DEBUG="1")


def test_a_weak_former_key_is_refused_as_well() -> None:
    assert "SECRET_KEY_FALLBACKS" in problems(SECRET_KEY_FALLBACKS=f"{KEY[::-1]},weak")
    assert read(SECRET_KEY_FALLBACKS=f" {KEY[::-1]} , ").secret_key_fallbacks == (KEY[::-1],)


@given(st.integers(min_value=38, max_value=96))
def test_a_random_key_of_any_alphabet_is_strong(size: int) -> None:
    for key in (secrets.token_urlsafe(size), secrets.token_hex(size)):
        assert problems(SECRET_KEY=key) == ""


@pytest.mark.parametrize("host", ["*", "*.example.com", "https://a.example", "a.example:80", "a b"])
def test_production_refuses_a_host_that_is_no_exact_name(host: str) -> None:
    assert "ALLOWED_HOSTS" in problems(ALLOWED_HOSTS=host)


def test_development_may_take_every_host_and_has_its_own() -> None:
    env = read(DEBUG="1", ALLOWED_HOSTS="*")

    assert env.problems == ()
    assert env.allowed_hosts == ("*", "localhost", "127.0.0.1", "[::1]")


@pytest.mark.parametrize(
    "origin",
    [
        "*", "https://*.vlanet.net", "vlanet.net", "//vlanet.net", "https://", "ftp://a.example",
        "https://a.example/", "https://a.example/path", "https://A.example", "https://a.example?x",
        "https://user@a.example", "https://a.example:port", "null", "https://a example",
        "https://한국.example",
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["CORS_ALLOWED_ORIGINS", "CSRF_TRUSTED_ORIGINS"])
@pytest.mark.parametrize("debug", ["0", "1"])
def test_an_origin_that_no_browser_sends_is_refused(name: str, origin: str, debug: str) -> None:
    assert name in problems(DEBUG=debug, **{name: origin})


@pytest.mark.parametrize(
    "origin",
    ["https://a.example", "http://localhost:3000", "https://a.example:8443", "http://[::1]:80"],
)
def test_an_exact_origin_is_taken(origin: str) -> None:
    assert read(CORS_ALLOWED_ORIGINS=origin).cors_origins == (origin,)


@pytest.mark.parametrize(
    ("name", "value"),
    [("CORS_ALLOW_ALL_ORIGINS", "true"), ("CORS_ALLOWED_ORIGIN_REGEXES", r"^https://.*\.app$")],
)
def test_open_cors_is_refused(name: str, value: str) -> None:
    assert name in problems(**{name: value})
    assert problems(CORS_ALLOW_ALL_ORIGINS="false") == ""


def test_debug_adds_the_local_frontend_once() -> None:
    env = read(DEBUG="1", CORS_ALLOWED_ORIGINS="http://localhost:3000,https://a.example")

    assert env.cors_origins == ("http://localhost:3000", "https://a.example")
    assert "http://localhost:3000" in read(DEBUG="1").cors_origins
    assert "http://localhost:3000" not in read().cors_origins


@pytest.mark.parametrize("debug", ["0", "1"])
def test_a_short_health_token_is_refused_in_every_mode(debug: str) -> None:
    assert "HEALTH_TOKEN has 31 characters" in problems(HEALTH_TOKEN="x" * 31, DEBUG=debug)
    assert read(HEALTH_TOKEN="x" * 32, DEBUG=debug).health_token == "x" * 32


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "0"), ("PORT", "65536"), ("PORT", "1.5"), ("WEB_CONCURRENCY", "0"),
        ("HOLD_S", "-1"), ("HOLD_S", "nan"), ("HOLD_S", "inf"), ("HOLD_LIMIT", "-1"),
        ("BOOT_DEADLINE_S", "0"), ("GRACEFUL_S", "a"), ("LOG_FORMAT", "xml"),
        ("WARM_BOOT", "maybe"), ("DRAIN_S", "-1"), ("DRAIN_S", "inf"), ("READY_WORKERS_MIN", "0"),
        ("CRASH_WINDOW_S", "0"), ("CRASH_LIMIT", "1"), ("ON_CRASH_LOOP", "panic"),
        ("WORKER_RSS_LIMIT_MIB", "-1"), ("LOOP_LAG_WARN_S", "nan"),
        ("FORWARDED_ALLOW_IPS", "10.0.0.1/8"), ("FORWARDED_ALLOW_IPS", "proxy"),
        ("CLIENT_ADDRESS_HEADER", "X Real IP"), ("ACCESS_LOG_LINES_PER_S", "-1"),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_a_problem(name: str, value: str) -> None:
    assert problems(**{name: value}).startswith(name)


def test_blank_values_count_as_not_given() -> None:
    assert read(PORT="  ", DEBUG="", HEALTH_TOKEN=" ", DYNO="") == read()


def test_railway_is_understood() -> None:
    env = read(
        RAILWAY_PUBLIC_DOMAIN="mine.up.railway.app",
        RAILWAY_GIT_COMMIT_SHA="f00ba4",
        RAILWAY_REPLICA_ID="replica",
        PORT="7777",
    )

    assert env.problems == ()
    assert env.allowed_hosts == ("videoplanet.up.railway.app", "mine.up.railway.app")
    assert "https://mine.up.railway.app" in env.csrf_origins
    assert "https://mine.up.railway.app" not in env.cors_origins
    assert (env.release, env.instance, env.port) == ("f00ba4", "replica", 7777)
    assert env.forwarded_allow_ips == ("100.64.0.0/10",)
    assert env.client_address_header == "x-real-ip"
    assert (env.request_id_header, read().request_id_header) == (
        "x-railway-request-id",
        "x-request-id",
    )


def test_heroku_render_and_fly_are_understood() -> None:
    heroku = read(DYNO="web.1", HEROKU_APP_DEFAULT_DOMAIN_NAME="mine.herokuapp.com")
    render = read(RENDER_EXTERNAL_HOSTNAME="mine.onrender.com", RENDER_GIT_COMMIT="c0ffee")
    fly = read(FLY_APP_NAME="mine", FLY_MACHINE_ID="m1")

    assert (heroku.hold_s, heroku.graceful_s, heroku.instance) == (25, 20, "web.1")
    assert "mine.herokuapp.com" in heroku.allowed_hosts
    assert "mine.onrender.com" in render.allowed_hosts
    assert render.release == "c0ffee"
    assert "mine.fly.dev" in fly.allowed_hosts
    assert all("10.0.0.0/8" in env.forwarded_allow_ips for env in (heroku, render, fly))
    assert all(env.problems == () for env in (heroku, render, fly))


@pytest.mark.parametrize(
    ("marker", "drain_s"),
    [("RAILWAY_REPLICA_ID", 2), ("DYNO", 3), ("RENDER_INSTANCE_ID", 0), ("FLY_APP_NAME", 5)],
)
def test_each_platform_has_its_own_drain_and_debug_has_none(marker: str, drain_s: float) -> None:
    assert read(**{marker: "x"}).drain_s == drain_s
    assert read(**{marker: "x"}, DEBUG="1").drain_s == 0
    assert read(**{marker: "x"}, DEBUG="1", DRAIN_S="7").drain_s == 7
    assert read(DEBUG="1").drain_s == 0


def test_more_workers_cannot_be_asked_for_than_there_are() -> None:
    assert read(READY_WORKERS_MIN="3", WEB_CONCURRENCY="3").ready_workers_min == 3

    env = read(READY_WORKERS_MIN="3", WEB_CONCURRENCY="2")

    (problem,) = env.problems
    assert problem == (
        "READY_WORKERS_MIN is 3, more than the 2 worker(s): the service would never be ready. "
        "Allowed: at most WEB_CONCURRENCY."
    )
    assert env.ready_workers_min == 2


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "settings"
    file.write_text(f"SECRET_KEY={KEY}\nPORT=1111\nHOLD_S=5\n")

    env = Env.read({"ENV_FILE": str(file), "PORT": "2222", "HOLD_S": ""})

    assert env.problems == ()
    assert (env.port, env.hold_s) == (2222, 5)


def test_a_relative_file_starts_at_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here.env").write_text("PORT=1111")
    monkeypatch.chdir(tmp_path)

    env = Env.read({"ENV_FILE": "here.env"})

    assert any(str(ROOT / "here.env") in problem for problem in env.problems)


def test_the_file_takes_comments_quotes_and_export(tmp_path: Path) -> None:
    file = tmp_path / "settings"
    file.write_text(
        "# comment\n\n"
        "PLAIN= a value # comment\n"
        "export EXPORTED=yes\n"
        "SINGLE='a # b = c'\n"
        'DOUBLE="한국어" # comment\n'
        "EQUALS=a=b=c\n"
        "EMPTY=\n",
        encoding="utf-8-sig",
    )

    values, found = read_file(file, required=True)

    assert found == []
    assert values == {
        "PLAIN": "a value", "EXPORTED": "yes", "SINGLE": "a # b = c", "DOUBLE": "한국어",
        "EQUALS": "a=b=c", "EMPTY": "",
    }  # fmt: skip


def test_a_wrong_line_is_named_and_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "settings"
    file.write_text("PORT=1111\nhunter2\n=hunter2\n")

    values, found = read_file(file, required=True)

    assert values == {"PORT": "1111"}
    assert [f"Line {number} of" in problem for number, problem in zip((2, 3), found, strict=True)]
    assert "hunter2" not in "".join(found)


def test_an_unreadable_file_is_a_problem(tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"PORT=\xff\xfe")

    for path in (tmp_path, binary):
        values, found = read_file(path, required=True)
        assert values == {}
        assert len(found) == 1
    assert read_file(tmp_path / "absent", required=False) == ({}, [])
    assert len(read_file(tmp_path / "absent", required=True)[1]) == 1


@pytest.fixture
def _psycopg(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that is installed, as far as anybody can see."""
    monkeypatch.setattr("project.env.database.find_spec", lambda name: object())


@pytest.mark.usefixtures("_psycopg")
def test_a_postgresql_url_becomes_djangos_settings() -> None:
    url = "postgresql://us%40er:p%2Fw@db.example:5433/na-me?sslmode=require&connect_timeout=2"

    database = parse_database_url(url, root=ROOT)

    assert database == Database(
        engine="django.db.backends.postgresql", name="na-me", user="us@er", password="p/w",
        host="db.example", port="5433",
        options={
            "sslmode": "require", "connect_timeout": 2, "keepalives_idle": 30,
            "keepalives_interval": 10, "keepalives_count": 3,
        },
    )  # fmt: skip
    assert not database.embedded
    assert "p/w" not in repr(database)


@pytest.mark.usefixtures("_psycopg")
def test_postgresql_gets_a_short_connect_limit_and_more_workers() -> None:
    env = read(DATABASE_URL="postgres://u:p@db/n")

    assert env.database.options["connect_timeout"] == 5
    assert env.web_concurrency == min(os.cpu_count() or 1, 4)


@pytest.mark.usefixtures("_psycopg")
@pytest.mark.parametrize(
    "query", ["sslmode=maybe", "connect_timeout=0", "connect_timeout=x", "isolation_level=1"]
)
def test_a_wrong_database_option_is_refused(query: str) -> None:
    with pytest.raises(DatabaseUrlError, match=query.partition("=")[0]):
        parse_database_url(f"postgres://u:secret@db/n?{query}", root=ROOT)


def test_postgresql_without_its_driver_is_a_clear_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("project.env.database.find_spec", lambda name: None)

    found = problems(DATABASE_URL="postgres://user:hunter2@db/name")

    assert "psycopg is not installed" in found
    assert "hunter2" not in found


def test_an_absolute_sqlite_file_is_taken_as_it_is() -> None:
    assert parse_database_url("sqlite:////data/a%20b.db", root=ROOT).name == "/data/a b.db"


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///",
        "sqlite:///dir/",
        "sqlite:///:memory:",
        "sqlite://host/x",
        "x",
        "http://[",
    ],
)
def test_a_url_that_names_no_database_is_refused(url: str) -> None:
    with pytest.raises(DatabaseUrlError):
        parse_database_url(url, root=ROOT)


@given(st.text())
def test_any_database_url_is_parsed_or_refused(text: str) -> None:
    for url in (text, f"sqlite:///{text}", f"postgres://{text}"):
        with suppress(DatabaseUrlError):
            assert parse_database_url(url, root=ROOT).name


_NAMES = sorted(
    {name for variable in VARIABLES for name in (variable.name, *variable.aliases)} - {"ENV_FILE"}
)
_VALUES = st.text(max_size=80) | st.sampled_from(
    [
        "1",
        "0",
        "*",
        "https://a.example",
        "a.example",
        "-1",
        "nan",
        "99999999999999999999",
        "::1",
        "[",
    ]
)


@given(st.dictionaries(st.sampled_from([*_NAMES, "FLY_APP_NAME", "DYNO"]), _VALUES))
def test_reading_never_raises_and_numbers_stay_usable(environ: dict[str, str]) -> None:
    env = Env.read({"ENV_FILE": os.devnull, **environ})

    assert 1 <= env.port <= 65_535
    assert all(math.isfinite(value) for value in (env.hold_s, env.boot_deadline_s))
    assert 1 <= env.ready_workers_min <= env.web_concurrency
    assert all(isinstance(problem, str) and problem for problem in env.problems)


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789-", min_size=12, max_size=31))
def test_no_secret_shows_in_a_problem_or_a_representation(secret: str) -> None:
    env = Env.read(
        {
            "ENV_FILE": os.devnull,
            "SECRET_KEY": f"~{secret}",
            "SECRET_KEY_FALLBACKS": f"~{secret}",
            "HEALTH_TOKEN": f"~{secret}"[:31],
            "DATABASE_URL": f"postgres://u:~{secret}@h:port/n",
        }
    )

    shown = repr(env) + "".join(env.problems)
    assert f"~{secret}" not in shown
    assert f"~{secret}"[:31] not in shown


@given(st.text(alphabet=st.characters(exclude_characters="'\r\n\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029",
                                      exclude_categories=("Cs",))))  # fmt: skip
def test_a_quoted_value_survives_the_file(
    tmp_path_factory: pytest.TempPathFactory, value: str
) -> None:
    file = tmp_path_factory.mktemp("env") / "settings"
    file.write_text(f"NAME='{value}'\n", encoding="utf-8")

    assert read_file(file, required=True) == ({"NAME": value}, [])


def test_only_declared_variables_can_be_read() -> None:
    reader = Reader({})

    with pytest.raises(KeyError):
        reader.text("NOT_DECLARED")
    with pytest.raises(KeyError, match="declared as flag"):
        reader.text("DEBUG")


@pytest.mark.parametrize(
    ("option", "file"), [("--example", ".env.example"), ("--docs", "docs/settings.md")]
)
def test_the_documents_are_those_of_the_table(option: str, file: str) -> None:
    made = subprocess.run(
        [sys.executable, "-m", "project.env", option],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=60, encoding="utf-8",
    )  # fmt: skip

    assert made.stdout == (ROOT / file).read_text(encoding="utf-8")


def test_the_check_lists_the_problems_and_fails() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "project.env", "--check"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "SECRET_KEY": "", "PORT": "none"},
    )  # fmt: skip

    assert made.returncode == 1
    assert "SECRET_KEY is missing" in made.stderr
    assert "PORT is 'none'" in made.stderr
