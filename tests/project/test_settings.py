"""The settings: every name is read by somebody, and production is safe by default."""

import os
import subprocess
import sys

import pytest
from corsheaders.conf import Settings as CorsSettings
from django.conf import global_settings
from django.contrib.auth.hashers import check_password, make_password
from django.db import connection

from project import settings
from project.env import ROOT

NAMES = [name for name in vars(settings) if name.isupper() and name != "ROOT"]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_known_to_django_or_a_listed_package(name: str) -> None:
    needed_by_django_without_default = {"ROOT_URLCONF"}
    assert (
        name in needed_by_django_without_default
        or hasattr(global_settings, name)
        or hasattr(CorsSettings, name)
    )


def run_in_production(code: str, **environ: str) -> str:
    """Run code with the settings of a production environment; return what it prints."""
    base = {"PATH": os.environ["PATH"], "ENV_FILE": os.devnull, "SECRET_KEY": os.urandom(40).hex()}
    made = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, env={**base, "DJANGO_SETTINGS_MODULE": "project.settings", **environ},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return made.stdout + made.stderr


_CHECK = """
import django
from django.core import checks
django.setup()
print(checks.run_checks(include_deployment_checks=True))
"""


def test_production_passes_djangos_deployment_checks() -> None:
    assert run_in_production(_CHECK) == "[]\n"


def test_the_deployment_checks_would_notice() -> None:
    assert "security.W" in run_in_production(_CHECK, HTTPS_ONLY="0")


def test_settings_refuse_a_wrong_environment() -> None:
    output = run_in_production("import project.settings", SECRET_KEY="", PORT="none")

    assert "InvalidEnvironment" in output
    assert "SECRET_KEY is missing" in output
    assert "PORT is 'none'" in output


def test_https_is_the_default_and_no_header_can_fake_it() -> None:
    output = run_in_production(
        "from project import settings as s; print(s.SECURE_SSL_REDIRECT, s.SESSION_COOKIE_SECURE,"
        "s.CSRF_COOKIE_SECURE, s.SECURE_HSTS_SECONDS, hasattr(s, 'SECURE_PROXY_SSL_HEADER'))"
    )

    assert output == "True True True 31536000 False\n"


def test_new_passwords_are_hashed_with_argon2() -> None:
    assert settings.PASSWORD_HASHERS[0].endswith("Argon2PasswordHasher")
    encoded = make_password("a password", hasher="argon2")
    assert encoded.startswith("argon2$argon2id$")
    assert check_password("a password", encoded)


_PRAGMAS = """
import django
django.setup()
from django.db import connection
for name in ("journal_mode", "foreign_keys", "busy_timeout", "synchronous"):
    with connection.cursor() as cursor:
        print(cursor.execute(f"PRAGMA {name}").fetchone()[0])
print(connection.transaction_mode)
"""


def test_sqlite_waits_keeps_references_and_locks_at_the_start(tmp_path) -> None:
    output = run_in_production(_PRAGMAS, DATABASE_URL=f"sqlite:///{tmp_path}/db.sqlite3")

    assert output.split() == ["wal", "1", "20000", "1", "IMMEDIATE"]


@pytest.mark.django_db
def test_the_tests_run_on_the_same_engine_as_the_default() -> None:
    assert connection.vendor == "sqlite"
