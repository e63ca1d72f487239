"""Read configuration from a mapping of names such as `os.environ`, which the caller passes in."""

from collections.abc import Callable, Container, Mapping
from typing import Any

from asgi_health.errors import ConfigurationError

__all__ = ["Table", "parse_flag", "read_environ"]

Table = Mapping[str, tuple[str, Callable[[str], Any]]]
"""Environment name to option and parser; a parser refuses with `KeyError` or `ValueError`."""

_FLAGS = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}


def parse_flag(raw: str) -> bool:
    """Read a word for yes or no, in any case.

    Raises:
        KeyError: it is neither.
    """
    return _FLAGS[raw.lower()]


def read_environ(
    environ: Mapping[str, str], table: Table, *, skip: Container[str]
) -> dict[str, Any]:
    """Return the options that `environ` gives; an empty value counts as absent.

    Args:
        environ: the environment.
        table: what may be read.
        skip: options that are not looked at.

    Raises:
        ConfigurationError: a value cannot be read.
    """
    return {
        option: _read(name, raw, parse)
        for name, (option, parse) in table.items()
        if option not in skip and (raw := environ.get(name, "")) != ""
    }


_KINDS: Mapping[Callable[[str], Any], str] = {
    int: "a whole number",
    float: "a number",
    parse_flag: "1, true, yes, on, 0, false, no or off",
}


def _read(name: str, raw: str, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(raw)
    except (KeyError, ValueError):
        raise ConfigurationError(
            option=name,
            found=raw,
            allowed=_KINDS.get(parse, "what its parser takes"),
            change="Correct the environment variable.",
        ) from None
