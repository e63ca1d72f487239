"""Turn the text of variables into typed values, and note what cannot be read instead of raising."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from project.env.variables import VARIABLES, Kind, Variable

__all__ = ["Reader", "read_file"]

_BY_NAME: Final = {variable.name: variable for variable in VARIABLES}
_FLAGS: Final = {
    "1": True, "true": True, "yes": True, "on": True,
    "0": False, "false": False, "no": False, "off": False,
}  # fmt: skip


class Reader:
    """Reads declared variables from a mapping; `problems` grows with every value that is wrong.

    Asking for a name that `VARIABLES` does not declare, or as another kind, is a `KeyError`: no
    variable can be read that the documents do not show.
    """

    def __init__(self, environ: Mapping[str, str], problems: Iterable[str] = ()) -> None:
        self._environ = environ
        self.problems = list(problems)

    def finish(self) -> tuple[str, ...]:
        """Return what was found wrong, each sentence once."""
        return tuple(dict.fromkeys(self.problems))

    def text(self, name: str) -> str:
        """Return the text, or the declared default (perhaps empty)."""
        variable = _declared(name, "text")
        found = self._find(variable)
        if not found:
            return variable.default
        if variable.choices and found.lower() not in variable.choices:
            self._complain(variable, found=repr(found), allowed=" or ".join(variable.choices))
            return variable.default
        return found.lower() if variable.choices else found

    def secret(self, name: str) -> str:
        """Return the text, which no message ever shows."""
        variable = _declared(name, "secret")
        return self._find(variable) or variable.default

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Return whether it is on; `default` counts when the table declares none."""
        variable = _declared(name, "flag")
        found = self._find(variable)
        fallback = _FLAGS.get(variable.default, default)
        if not found:
            return fallback
        if found.lower() not in _FLAGS:
            self._complain(variable, found=repr(found), allowed="1 or 0")
            return fallback
        return _FLAGS[found.lower()]

    def integer(self, name: str, *, default: str = "") -> int:
        """Return a whole number within the declared bounds."""
        variable = _declared(name, "integer")
        found, fallback = self._find(variable), int(default or variable.default)
        if not found:
            return fallback
        try:
            value = int(found)
        except ValueError:
            value = None
        if value is None or not variable.minimum <= value <= variable.maximum:
            self._complain(variable, found=repr(found), allowed=_range("a whole number", variable))
            return fallback
        return value

    def seconds(self, name: str, *, default: str = "") -> float:
        """Return a duration within the declared bounds."""
        variable = _declared(name, "seconds")
        found, fallback = self._find(variable), float(default or variable.default)
        if not found:
            return fallback
        try:
            value = float(found)
        except ValueError:
            value = math.nan
        if not variable.minimum <= value <= variable.maximum:  # false for nan as well
            self._complain(variable, found=repr(found), allowed=_range("seconds", variable))
            return fallback
        return value

    def names(self, name: str, *, default: str = "") -> tuple[str, ...]:
        """Return the parts between commas, without blanks and repetitions."""
        variable = _declared(name, "list")
        found = self._find(variable) or default or variable.default
        parts = (part.strip() for part in found.split(","))
        return tuple(dict.fromkeys(part for part in parts if part))

    def _find(self, variable: Variable) -> str:
        for name in (variable.name, *variable.aliases):
            found = self._environ.get(name, "").strip()
            if found:
                return found
        return ""

    def _complain(self, variable: Variable, *, found: str, allowed: str) -> None:
        self.problems.append(f"{variable.name} is {found}. Allowed: {allowed}.")


def read_file(path: Path, *, required: bool) -> tuple[dict[str, str], list[str]]:
    """Read NAME=value lines; return the values and the problems.

    Blank lines and lines that start with `#` are skipped, `export` before a name is allowed, a
    value may stand in single or double quotes. Messages name lines and never show them: a wrong
    line may hold a secret.

    Args:
        path: the file.
        required: whether its absence is a problem.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        return {}, [f"ENV_FILE names {path}, which does not exist."] if required else []
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a NUL in the name
        return {}, [f"{path} cannot be read: {type(error).__name__}. Make it a readable text file."]
    values: dict[str, str] = {}
    problems: list[str] = []
    for number, line in enumerate(lines, start=1):
        text = line.strip().removeprefix("export ").lstrip()
        if not text or text.startswith("#"):
            continue
        name, separator, value = text.partition("=")
        if not separator or not name.strip().isidentifier():
            problems.append(f"Line {number} of {path} is not NAME=value.")
        else:
            values[name.strip()] = _unquoted(value.strip())
    return values, problems


def _unquoted(value: str) -> str:
    for quote in ("'", '"'):
        if value.startswith(quote):
            end = value.find(quote, 1)
            return value[1:end] if end > 0 else value
    return value.split(" #", 1)[0].rstrip()


def _declared(name: str, kind: Kind) -> Variable:
    variable = _BY_NAME[name]
    if variable.kind != kind:
        raise KeyError(f"{name} is declared as {variable.kind}, not {kind}")
    return variable


def _range(what: str, variable: Variable) -> str:
    return f"{what} from {variable.minimum:g} to {variable.maximum:.12g}"
