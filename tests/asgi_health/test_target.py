"""From a name to an application: what is taken, what is refused and with which sentence."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from server_side import hello

from asgi_health import HealthGate, LoadedApp, Warmup
from asgi_health.errors import TargetError
from asgi_health.target import load_target

MODULE = '''
from asgi_health import HealthGate, LoadedApp

async def app(scope, receive, send):
    """An application."""

class Application:
    async def __call__(self, scope, receive, send):
        """An application as an object."""

    def build(self):
        return app

instance = Application()

class Namespace:
    app = app

def load():
    return app

def load_loaded(*, option=1, **more):
    return LoadedApp(app, lifespan=False)

def load_nothing():
    return None

def load_wsgi():
    return wsgi

async def load_async():
    return app

def wsgi(environ, start_response):
    return []

def needs_one(setting):
    return app

number = 7
gate = HealthGate("x:y")

def load_gate():
    return gate

def load_wrapped_gate():
    return LoadedApp(gate)

def load_wrapped_nothing():
    return LoadedApp(None)
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh importable module; its name."""
    name = f"generated_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    package = tmp_path / f"{name}_package"
    package.mkdir()
    (package / "__init__.py").write_text(MODULE)
    (package / "inner.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


@pytest.mark.parametrize(
    "attribute", ["app", "instance", "load", "load_loaded", "Namespace.app", "instance.build"]
)
def test_a_module_and_a_name_lead_to_an_application(module: str, attribute: str) -> None:
    loaded = load_target(f"{module}:{attribute}")
    assert callable(loaded.app)
    assert loaded.lifespan is (attribute != "load_loaded")


@pytest.mark.parametrize("suffix", ["_package.app", "_package.inner.app", ".app", ".load"])
def test_a_dotted_name_of_an_application_is_taken_as_well(module: str, suffix: str) -> None:
    assert callable(load_target(module + suffix).app)


@pytest.mark.parametrize(
    "target",
    [
        hello,
        lambda: hello,
        functools.partial(lambda app: app, hello),
        lambda **options: hello,
        lambda option=1: hello,
        LoadedApp(hello),
        lambda: LoadedApp(hello),
    ],
)
def test_a_function_or_an_application_itself_is_taken(target: Any) -> None:
    assert load_target(target).app is hello


def test_a_loaded_app_keeps_what_it_says() -> None:
    loaded = LoadedApp(hello, lifespan=False, warmup=Warmup("/w"))
    assert load_target(lambda: loaded) is loaded


@pytest.mark.parametrize(
    ("attribute", "found"),
    [
        ("missing", "missing: "),
        ("Namespace.missing", "missing: "),
        ("", "missing: "),
        ("number", "a int"),
        ("load_nothing", "a NoneType"),
        ("load_async", "an asynchronous function without arguments"),
        ("gate", "a HealthGate itself"),
        ("load_gate", "a HealthGate itself"),
        ("load_wrapped_gate", "a HealthGate itself"),
        ("load_wrapped_nothing", "a NoneType"),
        ("wsgi", "WSGI"),
        ("load_wsgi", "WSGI"),
        ("needs_one", "not with (scope, receive, send)"),
    ],
)
def test_what_cannot_serve_is_refused_with_a_sentence(
    module: str, attribute: str, found: str
) -> None:
    with pytest.raises(TargetError) as caught:
        load_target(f"{module}:{attribute}")
    sentence = str(caught.value)
    assert f"target '{module}:{attribute}' is " in sentence
    assert found in sentence
    assert "allowed: 'module:function'" in sentence
    assert "Correct the name given to HealthGate." in sentence
    assert caught.value.code == "boot.target"


@pytest.mark.parametrize(
    "target", ["no_such_module_at_all:app", "no_such_module_at_all.app", "json.nothing_here:app"]
)
def test_a_missing_module_is_an_import_error_that_names_it(target: str) -> None:
    with pytest.raises(ModuleNotFoundError, match=r"no_such_module_at_all|nothing_here"):
        load_target(target)


@pytest.mark.parametrize("target", ["no_such_module_at_all", "", ":app", "."])
def test_a_name_that_is_no_module_is_refused_with_a_sentence(target: str) -> None:
    with pytest.raises((TargetError, ModuleNotFoundError)):
        load_target(target)


def test_an_import_error_inside_the_module_is_its_own(module: str, tmp_path: Path) -> None:
    (tmp_path / f"{module}_broken.py").write_text("import no_such_module_at_all")
    with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
        load_target(f"{module}_broken:app")


def test_a_gate_as_a_target_object_is_refused() -> None:
    with pytest.raises(TargetError, match="a HealthGate itself"):
        load_target(HealthGate("x:y"))


def test_an_application_without_a_signature_is_taken() -> None:
    class Opaque:
        __signature__ = "not a signature"

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            """It cannot be inspected."""

    app: Callable[..., Any] = Opaque()
    assert load_target(app).app is app


def test_a_forgotten_coroutine_of_an_async_loader_leaves_no_warning(module: str) -> None:
    with pytest.raises(TargetError):
        load_target(f"{module}:load_async")
