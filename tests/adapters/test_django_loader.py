"""A whole small Django project behind the gate, each in a fresh interpreter."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import asgi_health

SETTINGS = """
SECRET_KEY = "made up for a test, of no use anywhere else"
DEBUG = {debug}
ALLOWED_HOSTS = {hosts}
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "shop"]
MIDDLEWARE = {middleware}
ROOT_URLCONF = "mysite.urls"
DATABASES = {{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
{more}
"""
FILES = {
    "mysite/__init__.py": "",
    "mysite/urls.py": """
from django.http import HttpResponse
from django.urls import path
urlpatterns = [path("hello", lambda request: HttpResponse("hello"))]
""",
    "mysite/asgi.py": """
import os
from django.core.asgi import get_asgi_application
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
application = get_asgi_application()
""",
    "mysite/custom.py": """
from mysite.asgi import application as django
seen = []
async def application(scope, receive, send):
    seen.append(scope["type"])
    if scope["type"] == "http":
        return await django(scope, receive, send)
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
""",
    "mysite/gate.py": """
from asgi_health import HealthGate
application = HealthGate.for_django("mysite.settings")
""",
    "mysite/middleware.py": """
class Passing:
    def __init__(self, get_response):
        self.get_response = get_response
    def __call__(self, request):
        return self.get_response(request)
def raising(get_response):
    raise OSError("the middleware is broken")
def failing(get_response):
    def middleware(request):
        raise OSError("every request fails")
    return middleware
""",
    "shop/__init__.py": "",
    "shop/apps.py": """
from django.apps import AppConfig
ready_calls = []
class ShopConfig(AppConfig):
    name = "shop"
    def ready(self):
        ready_calls.append(self.label)
""",
    "shop/models.py": """
from django.db import models
class Thing(models.Model):
    name = models.CharField(max_length=10)
""",
}

DRIVER = """
import asyncio, json, logging, sys
from asgi_health import HealthConfig, HealthGate

async def main():
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logging.getLogger("asgi_health").addHandler(handler)
    logging.getLogger("asgi_health").setLevel(logging.INFO)
    gate = HealthGate.for_django("mysite.settings", config=HealthConfig(failed_linger_s=30))
    inbox, outbox = asyncio.Queue(), asyncio.Queue()
    lifespan = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    server = asyncio.create_task(gate(lifespan, inbox.get, outbox.put))
    inbox.put_nowait({"type": "lifespan.startup"})
    await outbox.get()
    await gate.lifecycle.left(frozenset({"starting", "loading"}))
    await asyncio.sleep(0)

    async def get(path):
        sent = []
        messages = asyncio.Queue()
        messages.put_nowait({"type": "http.request", "body": b"", "more_body": False})
        async def send(message):
            sent.append(message)
        scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1",
                 "method": "GET", "scheme": "https", "path": path, "raw_path": path.encode(),
                 "query_string": b"", "root_path": "", "headers": [(b"host", b"shop.example")],
                 "client": ("192.0.2.7", 1), "server": ("shop.example", 443)}
        await gate(scope, messages.get, send)
        return sent[0]["status"], b"".join(m.get("body", b"") for m in sent[1:]).decode()

    failure = gate.lifecycle.failure
    report = gate.vitals.boot.recorder.report()
    found = {
        "phase": gate.lifecycle.phase.value,
        "code": failure and failure.code,
        "message": failure and failure.message,
        "traceback": failure and failure.traceback,
        "steps": [s.name for s in report.steps],
        "unfinished": [s.name for s in report.steps if s.duration_s is None],
        "apps": {a.label: [a.import_s > 0, a.models_s > 0, a.ready_s > 0] for a in report.apps},
        "modules": [name for name, _ in report.modules],
        "hello": await get("/hello"),
        "readyz": await get("/readyz"),
        "errors": [r.getMessage() for r in records if r.levelno >= logging.ERROR],
        "infos": [r.getMessage() for r in records if r.levelno == logging.INFO],
    }
    if "django.apps" in sys.modules:
        from django.apps import AppConfig, apps
        found["wrapped"] = [
            c.label for c in apps.app_configs.values() if {"ready", "import_models"} & set(vars(c))
        ]
        found["create"] = AppConfig.create.__qualname__
    if "shop.apps" in sys.modules:
        found["ready_calls"] = sys.modules["shop.apps"].ready_calls
    if "mysite.custom" in sys.modules:
        found["seen"] = sys.modules["mysite.custom"].seen
    inbox.put_nowait({"type": "lifespan.shutdown"})
    found["shutdown"] = (await outbox.get())["type"]
    await server
    print(json.dumps(found))

asyncio.run(main())
"""


def python(code: str, folder: Path, **environment: str) -> Any:
    """What a fresh interpreter prints as JSON."""
    names = {k: v for k, v in os.environ.items() if k != "DJANGO_SETTINGS_MODULE"}
    path = os.pathsep.join([str(Path(asgi_health.__file__).parents[1]), str(folder)])
    run = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        cwd=folder,
        env=names | {"PYTHONPATH": path} | environment,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Write a project with these settings and files."""

    def write(files: dict[str, str] | None = None, **settings: str) -> None:
        values = {"debug": "False", "hosts": "['shop.example']", "middleware": "[]", "more": ""}
        texts = FILES | {"mysite/settings.py": SETTINGS.format(**(values | settings))}
        for name, text in (texts | (files or {})).items():
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)

    return write


@pytest.fixture
def boot(tmp_path: Path, write: Any) -> Any:
    """Boot a project with these settings and files; what came of it."""

    def run(files: dict[str, str] | None = None, **settings: str) -> Any:
        write(files, **settings)
        return python(DRIVER, tmp_path)

    return run


def test_a_project_becomes_ready_with_its_steps_and_apps_recorded(boot: Any) -> None:
    found = boot(middleware="['mysite.middleware.Passing']")
    assert (found["phase"], found["code"], found["errors"]) == ("ready", None, [])
    assert found["hello"] == [200, "hello"]
    assert found["readyz"] == [200, "ok"]
    order = ["import", "settings", "django", "apps: import", "apps: models", "apps: ready"]
    assert found["steps"] == [*order, "urlconf", "middleware", "warm-up"]
    assert found["unfinished"] == []
    assert found["apps"] == {label: [True] * 3 for label in ("contenttypes", "auth", "shop")}
    assert len(found["modules"]) == 10
    assert found["shutdown"] == "lifespan.shutdown.complete"


def test_nothing_stays_wrapped_and_ready_is_called_once(boot: Any) -> None:
    found = boot()
    assert found["wrapped"] == []
    assert found["create"] == "AppConfig.create"
    assert found["ready_calls"] == ["shop"]


def test_nothing_stays_wrapped_after_a_failure_either(boot: Any) -> None:
    source = FILES["shop/apps.py"] + "        raise OSError('not ready')\n"
    found = boot({"shop/apps.py": source})
    assert (found["phase"], found["code"]) == ("failed", "boot.error")
    assert found["message"] == "OSError: not ready"
    assert found["wrapped"] == []
    assert found["create"] == "AppConfig.create"
    assert found["unfinished"] == []


BROKEN = {
    "settings": (
        {"more": "raise OSError('settings are broken')"},
        {},
        "boot.error",
        "OSError: settings are broken",
    ),
    "missing settings name": (
        {"more": "del SECRET_KEY\nDEBUG = undefined"},
        {},
        "boot.error",
        "NameError",
    ),
    "empty secret key": (
        {"more": "SECRET_KEY = ''"},
        {},
        "boot.error",
        "ImproperlyConfigured: The SECRET_KEY setting must not be empty",
    ),
    "unknown app": (
        {"more": "INSTALLED_APPS = ['no_such_app']"},
        {},
        "boot.import_error",
        "No module named 'no_such_app'",
    ),
    "app": ({}, {"shop/apps.py": "raise OSError('app')"}, "boot.error", "OSError: app"),
    "models": ({}, {"shop/models.py": "raise OSError('models')"}, "boot.error", "OSError: models"),
    "lazy text": (
        {},
        {
            "shop/models.py": "from django.utils.translation import gettext_lazy\n"
            "raise ValueError(gettext_lazy('x'))"
        },
        "boot.error",
        "ValueError",
    ),
    "urlconf": (
        {},
        {"mysite/urls.py": "import nothing_here"},
        "boot.import_error",
        "nothing_here",
    ),
    "urlconf syntax": (
        {},
        {"mysite/urls.py": "u = ["},
        "boot.import_error",
        "SyntaxError",
    ),
    "middleware": (
        {"middleware": "['mysite.middleware.raising']"},
        {},
        "boot.error",
        "OSError: the middleware is broken",
    ),
    "unknown middleware": (
        {"middleware": "['mysite.middleware.nothing']"},
        {},
        "boot.import_error",
        "does not define",
    ),
    "failing requests": (
        {"middleware": "['mysite.middleware.failing']"},
        {},
        "boot.warmup",
        "status 500",
    ),
    "no allowed host": (
        {"hosts": "[]", "middleware": "['django.middleware.common.CommonMiddleware']"},
        {},
        "boot.warmup",
        "status 400",
    ),
    "broken ASGI_APPLICATION": (
        {"more": "ASGI_APPLICATION = 'mysite.nothing.application'"},
        {},
        "boot.import_error",
        "mysite.nothing",
    ),
    "WSGI as ASGI_APPLICATION": (
        {"more": "ASGI_APPLICATION = 'django.core.handlers.wsgi.get_path_info'"},
        {},
        "boot.target",
        "perhaps a WSGI application",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_whatever_is_broken_fails_the_boot_with_the_first_error(name: str, boot: Any) -> None:
    settings, files, code, message = BROKEN[name]
    found = boot(files, **settings)
    assert (found["phase"], found["code"]) == ("failed", code)
    assert message in found["message"]
    assert "populate() isn't reentrant" not in found["traceback"]
    assert "frozen importlib" not in found["traceback"]
    assert len(found["errors"]) == 1
    assert found["hello"][0] == found["readyz"][0] == 503
    assert found["readyz"][1] == code
    assert found["unfinished"] == []


def test_the_application_that_the_settings_name_is_taken_with_its_lifespan(boot: Any) -> None:
    found = boot(more="ASGI_APPLICATION = 'mysite.custom.application'")
    assert found["phase"] == "ready"
    assert found["seen"] == ["lifespan", "http", "http"]
    assert "ASGI_APPLICATION" in found["steps"]
    assert found["hello"] == [200, "hello"]


def test_djangos_own_handler_never_sees_the_lifespan(boot: Any) -> None:
    found = boot(more="ASGI_APPLICATION = 'mysite.asgi.application'")
    assert found["phase"] == "ready"
    assert "lifespan startup" not in found["steps"]
    assert not [line for line in found["infos"] if "lifespan" in line]


def test_an_application_that_is_the_gate_itself_is_ignored(boot: Any) -> None:
    found = boot(more="ASGI_APPLICATION = 'mysite.gate.application'")
    assert (found["phase"], found["hello"]) == ("ready", [200, "hello"])


def test_the_settings_of_the_environment_win(boot: Any, tmp_path: Path) -> None:
    boot()
    (tmp_path / "mysite" / "other.py").write_text("from mysite.settings import *\nDEBUG = True\n")
    code = (
        "import json, os\nfrom asgi_health.adapters.django.loader import load_project\n"
        "load_project('mysite.settings')\nfrom django.conf import settings\n"
        "print(json.dumps(settings.DEBUG))"
    )
    assert python(code, tmp_path, DJANGO_SETTINGS_MODULE="mysite.other") is True
    assert python(code, tmp_path) is False


WARMUPS: list[tuple[Any, Any, str, list[list[str]]]] = [
    (["*"], None, "localhost", []),
    ([], None, "localhost", []),
    (["localhost", "a.example"], None, "localhost", []),
    (["a.example", "localhost"], None, "localhost", []),
    (["a.example", "b.example"], None, "a.example", []),
    ([".a.example"], None, "a.example", []),
    (["[::1]"], None, "[::1]", []),
    (["a.example", "*"], None, "localhost", []),
    (
        ["a.example"],
        ["HTTP_X_FORWARDED_PROTO", "https"],
        "a.example",
        [["x-forwarded-proto", "https"]],
    ),
    (["a.example"], ["HTTP_X_SCHEME", "on"], "a.example", [["x-scheme", "on"]]),
]


def test_the_warm_up_request_passes_the_projects_own_settings(tmp_path: Path) -> None:
    code = (
        "import json\nfrom django.conf import settings\nsettings.configure()\n"
        "from asgi_health.adapters.django.loader import warmup_for\nfound = []\n"
        f"for hosts, header, *_ in {WARMUPS!r}:\n"
        "    settings.ALLOWED_HOSTS, settings.SECURE_PROXY_SSL_HEADER = hosts, header\n"
        "    w = warmup_for('/w', statuses=frozenset({200}))\n"
        "    assert (w.path, w.statuses) == ('/w', {200})\n"
        "    found.append([w.host, [[n.decode(), v.decode()] for n, v in w.headers]])\n"
        "print(json.dumps(found))"
    )
    assert python(code, tmp_path) == [[host, headers] for _, _, host, headers in WARMUPS]


@pytest.mark.parametrize(
    ("hosts", "more"),
    [
        ("['*']", "SECURE_SSL_REDIRECT = True"),
        ("['.shop.example']", "SECURE_SSL_REDIRECT = True"),
        (
            "['shop.example']",
            (
                "SECURE_SSL_REDIRECT = True\n"
                "SECURE_PROXY_SSL_HEADER = ('HTTP_X_FORWARDED_PROTO', 'https')"
            ),
        ),
        ("['shop.example']", "APPEND_SLASH = True\nPREPEND_WWW = False"),
    ],
)
def test_a_project_behind_tls_and_hosts_passes_its_warm_up(
    boot: Any, hosts: str, more: str
) -> None:
    stack = [
        "django.middleware.security.SecurityMiddleware",
        "django.middleware.common.CommonMiddleware",
    ]
    found = boot(hosts=hosts, middleware=repr(stack), more=more)
    assert (found["phase"], found["message"]) == ("ready", None)


LOADING = """
import json, os, sys
from asgi_health.boot import load_in_place
from asgi_health.fleet.forkguard import ForkGuard
from asgi_health.report import Recorder

guard = ForkGuard()
guard.begin()
loaded, _ = load_in_place("mysite.settings", recorder=Recorder(guard.look))
"""
IN_A_CHILD = """
def in_a_child(work):
    if os.fork() == 0:
        try:
            os._exit(work())
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.wait()[1])
"""
CONNECTING = (
    FILES["shop/apps.py"]
    + """
        from django.db import connections
        for alias in sorted(connections):
            if alias != "unused":
                connections[alias].ensure_connection()
"""
)


def test_a_connection_opened_in_ready_is_attributed_and_closed_before_the_fork(
    write: Any, tmp_path: Path
) -> None:
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "db.sqlite3")}
    write({"shop/apps.py": CONNECTING}, more=f"DATABASES = {{'default': {database}}}")
    code = (
        LOADING
        + IN_A_CHILD
        + """
from django.db import connection

def count():
    with connection.cursor() as cursor:
        return cursor.execute("SELECT count(*) + 41 FROM sqlite_master").fetchone()[0]

opened = [(l.kind, l.what, l.owner) for l in guard.end()]
loaded.before_fork()
found = {"opened": opened, "closed": len(guard.end()), "open": connection.connection is not None}
print(json.dumps(found | {"child": in_a_child(count), "parent": count()}))
"""
    )
    found = python(code, tmp_path)
    ((kind, what, owner),) = found.pop("opened")
    assert (kind, owner) == ("descriptor", 'app "shop": ready()')
    assert f"{tmp_path / 'db.sqlite3'}, open for writing" in what
    assert found == {"closed": 0, "open": False, "child": 41, "parent": 41}


def test_a_database_in_memory_survives_and_is_each_childs_own(write: Any, tmp_path: Path) -> None:
    write({"shop/apps.py": CONNECTING})
    code = (
        LOADING
        + IN_A_CHILD
        + """
from django.db import connection
connection.cursor().execute("CREATE TABLE kept (x)")
loaded.before_fork()

def add():
    cursor = connection.cursor()
    cursor.execute("INSERT INTO kept VALUES (1)")
    return cursor.execute("SELECT count(*) FROM kept").fetchone()[0]

print(json.dumps([in_a_child(add), add()]))
"""
    )
    assert python(code, tmp_path) == [1, 1]


POOLED = """
from django.db.backends.sqlite3 import base

class DatabaseWrapper(base.DatabaseWrapper):
    events = []

    def close(self):
        self.events.append(f"{self.alias} closed")
        if self.alias == "broken":
            raise OSError("the connection is broken")
        super().close()

    def close_pool(self):
        self.events.append(f"{self.alias}'s pool closed")
"""
CACHE = """
from django.core.cache.backends.locmem import LocMemCache
closed = []

class Cache(LocMemCache):
    def close(self):
        closed.append(self._name)

    def __init__(self, name, params):
        super().__init__(name, params)
        self._name = name
"""
USING_A_CACHE = (
    CONNECTING
    + """
        from django.core.cache import cache
        cache.set("x", 1)
"""
)


@pytest.mark.parametrize("aliases", [("default",), ("broken", "default", "other", "unused")])
def test_connections_pools_and_caches_are_closed_even_when_one_of_them_fails(
    aliases: tuple[str, ...], write: Any, tmp_path: Path
) -> None:
    names = {alias: str(tmp_path / alias) for alias in aliases}
    databases = {a: {"ENGINE": "mysite.pooled", "NAME": name} for a, name in names.items()}
    caches = {
        "default": {"BACKEND": "mysite.cache.Cache", "LOCATION": "used"},
        "unused": {"BACKEND": "mysite.cache.Cache", "LOCATION": "unused"},
    }
    files = {
        "shop/apps.py": USING_A_CACHE,
        "mysite/cache.py": CACHE,
        "mysite/pooled/__init__.py": "",
        "mysite/pooled/base.py": POOLED,
    }
    write(files, more=f"DATABASES = {databases}\nCACHES = {caches}")
    code = (
        LOADING
        + """
from mysite.cache import closed
from mysite.pooled.base import DatabaseWrapper
try:
    loaded.before_fork()
    raised = None
except OSError as error:
    raised = str(error)
print(json.dumps([DatabaseWrapper.events, closed, raised]))
"""
    )
    events, closed, raised = python(code, tmp_path)
    used = [alias for alias in aliases if alias != "unused"]
    assert sorted(events) == sorted(
        event for alias in used for event in (f"{alias} closed", f"{alias}'s pool closed")
    )
    for alias in used:
        assert events.index(f"{alias} closed") < events.index(f"{alias}'s pool closed")
    assert closed == ["used"]
    assert raised == ("the connection is broken" if "broken" in aliases else None)


def test_closing_loads_nothing(tmp_path: Path) -> None:
    code = (
        "import json, sys\nfrom asgi_health.adapters.django.loader import close_connections\n"
        "close_connections()\n"
        "print(json.dumps([n for n in sys.modules if n.partition('.')[0] == 'django']))"
    )
    assert python(code, tmp_path) == []


@pytest.mark.parametrize("named", ["mysite.asgi.application", "mysite.custom.application"])
def test_an_application_that_the_settings_name_closes_them_too(
    named: str, write: Any, tmp_path: Path
) -> None:
    write(more=f"ASGI_APPLICATION = '{named}'")
    code = LOADING + "print(json.dumps(loaded.before_fork.__name__))"
    assert python(code, tmp_path) == "close_connections"
