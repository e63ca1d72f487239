"""What a value must be, beyond its type: keys that cannot be guessed, names that are exact.

Each function returns sentences, none when all is well. None of them shows a secret.
"""

import ipaddress
from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import urlsplit

__all__ = [
    "header_problems",
    "host_problems",
    "key_problems",
    "origin_problems",
    "proxy_problems",
    "token_problems",
]

_KEY_LENGTH_MIN: Final = 50
_KEY_DISTINCT_MIN: Final = 10
_KEY_PUBLISHED: Final = (
    "changeme",
    "defaultsecret",
    "mysecretkey",
    "placeholder",
    "replaceme",
    "secretkeyhere",
    "yoursecretkey",
)
_TOKEN_LENGTH_MIN: Final = 32
_MAKE_KEY: Final = "Make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(64))'"


def key_problems(name: str, key: str, *, strict: bool) -> list[str]:
    """Judge a signing key; `strict` (production) asks for one that cannot be guessed."""
    if not key:
        return [f"{name} is missing. {_MAKE_KEY}"]
    weaknesses = list(_weaknesses(key)) if strict else []
    return [f"{name} {' and '.join(weaknesses)}. {_MAKE_KEY}"] if weaknesses else []


def _weaknesses(key: str) -> Iterator[str]:
    if len(key) < _KEY_LENGTH_MIN:
        yield f"has {len(key)} characters, fewer than {_KEY_LENGTH_MIN}"
    if len(set(key)) < _KEY_DISTINCT_MIN:
        yield f"has {len(set(key))} distinct characters, fewer than {_KEY_DISTINCT_MIN}"
    if "insecure" in key.lower():
        yield "contains 'insecure'"
    letters = "".join(character for character in key.lower() if character.isalnum())
    if any(published in letters for published in _KEY_PUBLISHED):
        yield "is a published default"


def token_problems(name: str, token: str) -> list[str]:
    """Judge a bearer token: 32 characters or more, or none at all."""
    if token and len(token) < _TOKEN_LENGTH_MIN:
        return [f"{name} has {len(token)} characters, fewer than {_TOKEN_LENGTH_MIN}. {_MAKE_KEY}"]
    return []


def host_problems(name: str, hosts: Iterable[str], *, strict: bool) -> list[str]:
    """Judge host patterns; `strict` (production) refuses `*`."""
    problems = []
    for host in hosts:
        if "*" in host:
            if strict or host != "*":
                problems.append(
                    f"{name} contains {host!r}, which lets strangers choose the host. "
                    "Allowed: exact names, or a leading dot for subdomains."
                )
        elif not _is_host(host):
            problems.append(f"{name} contains {host!r}. Allowed: a name without scheme and port.")
    return problems


def _is_host(host: str) -> bool:
    if host.startswith("[") and host.endswith("]"):
        return ":" in host
    return host.isascii() and all(letter.isalnum() or letter in ".-_" for letter in host)


def header_problems(name: str, header: str) -> list[str]:
    """Judge the name of a header; an empty one is none."""
    if all(letter.isascii() and (letter.isalnum() or letter in "-_") for letter in header):
        return []
    return [f"{name} is {header!r}. Allowed: the name of a header, such as X-Real-IP."]


def origin_problems(name: str, origins: Iterable[str]) -> list[str]:
    """Judge origins: exactly what a browser sends, because credentials are allowed."""
    return [
        f"{name} contains {origin!r}. Allowed: scheme, host and perhaps port, in lower case and "
        "without pattern or path, such as https://www.example.org."
        for origin in origins
        if not _is_origin(origin)
    ]


def _is_origin(origin: str) -> bool:
    try:
        parts = urlsplit(origin)
        port_is_legal = parts.port is None or parts.port > 0
    except ValueError:
        return False
    return (
        parts.scheme in {"http", "https"}
        and port_is_legal
        and (_is_host(parts.hostname or "*") or ":" in (parts.hostname or ""))
        and "@" not in parts.netloc
        and origin == f"{parts.scheme}://{parts.netloc}".lower()
    )


def proxy_problems(name: str, proxies: Iterable[str]) -> list[str]:
    """Judge addresses and networks of trusted proxies."""
    return [
        f"{name} contains {proxy!r}. Allowed: an address, a network such as 10.0.0.0/8, or *."
        for proxy in proxies
        if proxy != "*" and not _is_network(proxy)
    ]


def _is_network(proxy: str) -> bool:
    try:
        ipaddress.ip_network(proxy)
    except ValueError:
        return False
    return True
