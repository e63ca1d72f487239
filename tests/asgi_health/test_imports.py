"""Who imports what: the core the standard library only, the package itself next to nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import asgi_health

PACKAGE = Path(asgi_health.__file__).parent
ROOT = str(PACKAGE.parent)
CORE = sorted(
    path.relative_to(PACKAGE.parent).with_suffix("")
    for path in PACKAGE.rglob("*.py")
    if "adapters" not in path.parts
)


def modules_after(statement: str) -> set[str]:
    """What a fresh interpreter has loaded after a statement, and had not before."""
    code = (
        f"import sys; sys.path.insert(0, {ROOT!r}); before = set(sys.modules)\n{statement}\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    run = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True, timeout=50
    )
    return set(run.stdout.split())


def foreign(modules: set[str]) -> set[str]:
    tops = {name.partition(".")[0] for name in modules}
    return tops - sys.stdlib_module_names - {"asgi_health", "__mp_main__"}


@pytest.mark.parametrize("name", [".".join(path.parts) for path in CORE])
def test_a_module_of_the_core_loads_the_standard_library_only(name: str) -> None:
    name = name.removesuffix(".__init__")
    loaded = modules_after(f"import {name}")
    assert name in loaded
    assert foreign(loaded) == set()
    assert not [module for module in loaded if module.startswith("asgi_health.adapters")]


@pytest.mark.parametrize("path", CORE, ids=str)
def test_no_line_of_the_core_names_anything_else(path: Path) -> None:
    tree = ast.parse((PACKAGE.parent / path).with_suffix(".py").read_text())
    named = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            named.add(str(node.module))
    assert foreign(named) == set()
    assert not [name for name in named if name.startswith("asgi_health.adapters")]


def test_the_package_itself_loads_next_to_nothing() -> None:
    loaded = modules_after("import asgi_health")
    heavy = {"asyncio", "json", "dataclasses", "logging", "socket", "urllib.parse"}
    assert not loaded & heavy
    assert not [name for name in loaded if name.startswith("asgi_health.")]


def test_the_gate_loads_nothing_that_the_first_answer_does_not_need() -> None:
    loaded = modules_after("from asgi_health import HealthConfig, HealthGate")
    late = {
        "asgi_health.boot",
        "asgi_health.fleet",
        "asgi_health.fleet.membership",
        "asgi_health.fleet.scoreboard",
        "asgi_health.statuspage",
        "asgi_health.watchdog",
        "hmac",
        "mmap",
        "tempfile",
        "urllib.parse",
    }
    assert not loaded & late


def test_the_probe_command_is_light() -> None:
    loaded = modules_after("import asgi_health.commands.probe")
    assert not loaded & {"asyncio", "ssl", "argparse", "http", "urllib", "asgi_health.gate"}


@pytest.mark.parametrize("name", asgi_health.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(asgi_health, name) is getattr(asgi_health, name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'asgi_health' has no attribute 'nothing'"):
        asgi_health.nothing  # noqa: B018 - the look-up is the test


@pytest.mark.parametrize("path", CORE, ids=str)
def test_every_module_says_what_is_public(path: Path) -> None:
    tree = ast.parse((PACKAGE.parent / path).with_suffix(".py").read_text())
    assert ast.get_docstring(tree)
    names = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    assert "__all__" in names or len(tree.body) == 1
