"""What a request asks of a probe path: the question, the format, what to leave out. Pure."""

from enum import StrEnum
from typing import NamedTuple

__all__ = ["Format", "Kind", "Query", "parse_query", "printable"]


class Kind(StrEnum):
    """The question that a path asks."""

    LIVE = "livez"
    READY = "readyz"
    STARTUP = "startupz"


class Format(StrEnum):
    """Media types of an answer."""

    TEXT = "text/plain; charset=utf-8"
    JSON = "application/json"
    HEALTH_JSON = "application/health+json"


class Query(NamedTuple):
    """What a request asks of a probe path."""

    kind: Kind
    check: str | None = None
    format: Format = Format.TEXT
    verbose: bool = False
    exclude: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    details: bool = False


def parse_query(
    kind: Kind,
    *,
    check: str | None = None,
    query_string: bytes = b"",
    accept: bytes = b"",
    details: bool = False,
) -> Query:
    """Read `?verbose`, `?format=` and `?exclude=` and the `Accept` header.

    Never raises: what cannot be read is a warning.
    """
    wanted = _format_by_accept(accept) if accept else Format.TEXT
    if not query_string:
        return Query(kind=kind, check=check, format=wanted, details=details)
    from urllib.parse import parse_qsl  # noqa: PLC0415 - keeps the first answer light; only asked-for queries pay

    verbose, exclude, warnings = False, [], []
    for name, value in parse_qsl(
        query_string.decode("latin-1"), keep_blank_values=True, max_num_fields=None
    )[:64]:
        if name == "verbose":
            verbose = value.lower() not in {"0", "false"}
        elif name == "exclude":
            exclude.append(value)
        elif name == "format" and value in {"json", "text"}:
            wanted = Format.JSON if value == "json" else Format.TEXT
        elif name == "format":
            warnings.append(f"unknown format {printable(value)} (known: json, text)")
    return Query(
        kind=kind,
        check=check,
        format=wanted,
        verbose=verbose,
        exclude=tuple(exclude),
        warnings=tuple(warnings),
        details=details,
    )


def _format_by_accept(accept: bytes) -> Format:
    """The best of our three media types by q-value (RFC 9110, 12.5.1); else text."""
    best, best_quality = Format.TEXT, 0.0
    for part in accept.decode("latin-1").lower().split(",")[:32]:
        media, _, parameters = part.partition(";")
        known = _MEDIA.get(media.strip())
        quality = _quality(parameters)
        if known is not None and quality > best_quality:
            best, best_quality = known, quality
    return best


_MEDIA = {
    "text/plain": Format.TEXT,
    "application/json": Format.JSON,
    "application/health+json": Format.HEALTH_JSON,
}


def _quality(parameters: str) -> float:
    for parameter in parameters.split(";"):
        name, _, value = parameter.strip().partition("=")
        if name == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def printable(value: str) -> str:
    """A word of the client's, short and in plain ASCII, for an answer."""
    return repr(value[:64].encode("ascii", "backslashreplace").decode("ascii"))
