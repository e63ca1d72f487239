"""Write `.env.example` and `docs/settings.md` from the table of variables."""

from collections.abc import Iterator
from itertools import groupby
from typing import Final

from project.env.variables import VARIABLES, Kind, Variable

__all__ = ["example", "settings_page"]

_VALUES: Final[dict[Kind, str]] = {
    "text": "text",
    "secret": "secret text",
    "flag": "1 or 0",
    "integer": "whole number",
    "seconds": "seconds",
    "list": "values between commas",
}

_INTRODUCTION: Final = """\
<!-- Made by: python -m project.env --docs -->
# Settings

The environment is read once, when a process starts. A file of `NAME=value` lines, `.env` in the
repository, gives values that the environment overrides. All problems are reported in one message;
until they are solved the process answers its probes with `env.invalid` and serves nothing else.
`python -m project.env --check` lists them without a server.

With `DEBUG` off, the process refuses a missing or weak `SECRET_KEY` and `*` in `ALLOWED_HOSTS`. In
every mode it refuses CORS for all origins or by pattern, origins without scheme, and a
`HEALTH_TOKEN` under 32 characters."""


def example() -> str:
    """Return the text of `.env.example`: every variable, commented out."""
    lines = [
        "# Made by: python -m project.env --example",
        "# Copy to .env and change what you need. The process environment overrides this file.",
        "# Every variable is explained in docs/settings.md.",
    ]
    for section, variables in groupby(VARIABLES, key=lambda variable: variable.section):
        lines += ["", f"# --- {section} ---"]
        for variable in variables:
            lines += ["", f"# {variable.help}", f"#{variable.name}={variable.default}"]
    return "\n".join(lines) + "\n"


def settings_page() -> str:
    """Return the text of `docs/settings.md`: one table a section."""
    lines = [_INTRODUCTION]
    for section, variables in groupby(VARIABLES, key=lambda variable: variable.section):
        lines += [
            "",
            f"## {section}",
            "",
            "| name | value | default | meaning |",
            "|---|---|---|---|",
        ]
        lines += [_row(variable) for variable in variables]
    return "\n".join(lines) + "\n"


def _row(variable: Variable) -> str:
    cells = (f"`{variable.name}`", _value(variable), _default(variable), _meaning(variable))
    return f"| {' | '.join(cells)} |"


def _value(variable: Variable) -> str:
    if variable.choices:
        return ", ".join(f"`{choice}`" for choice in variable.choices)
    if variable.kind in {"integer", "seconds"}:
        return f"{_VALUES[variable.kind]}, {variable.minimum:g} to {variable.maximum:.12g}"
    return _VALUES[variable.kind]


def _default(variable: Variable) -> str:
    parts = [f"`{variable.default}`"] if variable.default else []
    parts += [variable.default_note] if variable.default_note else []
    return "; ".join(parts) or "none"


def _meaning(variable: Variable) -> str:
    return " ".join(_sentences(variable))


def _sentences(variable: Variable) -> Iterator[str]:
    yield variable.help
    if variable.aliases:
        yield f"Also read from {', '.join(f'`{alias}`' for alias in variable.aliases)}."
