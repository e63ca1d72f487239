"""No secret in a log: what looks like one, what is named like one, and the ones that we know.

A false alarm costs a word of a log line; a leak costs an account. In doubt it is redacted.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from typing import Any, Final
from urllib.parse import quote

__all__ = ["REDACTED", "Redactor"]

REDACTED: Final = "[redacted]"
_KNOWN_LENGTH_MIN: Final = 6
_DEPTH_MAX: Final = 6

_NAMES: Final = (
    r"passw(?:or)?d|passphrase|pwd|secret|token|api[_-]?key|private[_-]?key|authorization"
    r"|credential|cookie|session[_-]?(?:id|key)|csrf\w{0,20}|signature|otp|jwt|dsn"
    r"|(?:verification|reset|signup|confirm\w{0,5}|recovery|login|auth)[_-]?code"
)
_SECRET_NAME: Final = rf"(?i:^session$|(?:^|[_-])(?:{_NAMES})s?\d*(?:$|[_-]))"
_CODE: Final = r"\s*\d{4,10}\s*"

_BETWEEN: Final = r"(?:[\"']\s{0,4}[:=,]\s{0,4}|\s{0,4}[:=]\s{0,4})(?:b(?=[\"']))?"
"""A name and its value."""

# What stays, so that a reader sees what was there, and the secret after it. Every repetition before
# something else is bounded, so that no text takes more than linear time.
_SHAPES: Final = (
    (  # all cookies of a header, to the end of the line or of the quoted value
        r"(?i:\b(?:set-)?cookies?\b(?:[\"']\s{0,4}[:,]\s{0,4}(?:b(?=[\"']))?[\"']|\s{0,4}[:=]\s{0,4}))",
        r"[^\"'\n]+",
    ),
    (  # what has a name: in a header, an address, JSON, a repr
        rf"(?i:\b[\w-]{{0,40}}(?:{_NAMES})[\w-]{{0,40}}{_BETWEEN})",
        r"(?:\"[^\"\n]*\"?|'[^'\n]*'?|(?i:(?:bearer|basic|digest|token)\s+)?[^\s,;&\"'<>)\]}]+)",
    ),
    (r"(?i:[?&;](?:code|key|sig|state|ticket|t)=)", r"[^&\s#\"'<>]+"),
    (r"(?i:\b(?:bearer|basic)\s+)", r"[\w.~+/=-]{8,}"),
    (r"://", r"[^\s/@\"':]{0,200}:[^\s\"']{1,200}(?=@)"),
    (r"(?i:\b(?:code|otp|pin)\b(?:\s+is)?[\s:=]{1,4}[\"']?)", r"\d{4,10}\b"),
    (r"\b", r"eyJ[\w-]{5,}\.[\w-]{5,}(?:\.[\w-]*)?"),
    (r"-----BEGIN [A-Z ]{0,30}KEY-----", r"[^-]*"),
    (r"\b", r"(?:argon2|pbkdf2_sha\d{1,3}|scrypt|bcrypt\w{0,10})\$\S+"),
)
_LOOKS_SECRET: Final = "|".join(
    f"(?P<kept{number}>{kept}){secret}" for number, (kept, secret) in enumerate(_SHAPES)
)
_TRIGGERS: Final = (
    "pass", "pwd", "secret", "token", "key", "auth", "credential", "cookie", "session", "csrf",
    "sig", "otp", "jwt", "dsn", "code", "state", "ticket", "t=", "bearer", "basic", "://", "pin",
    "eyj", "-----begin", "argon2", "pbkdf2", "scrypt", "bcrypt",
)  # fmt: skip
"""In small letters; a text with none of them can match none of the patterns."""

_RANDOM_PART: Final = (
    # Of a path: small letters, capitals and digits, or many hexadecimal digits.
    r"(?<=/)(?:(?=[\w-]*[a-z])(?=[\w-]*[A-Z])(?=[\w-]*\d)[\w-]{20,}|[0-9a-f]{32,})(?![\w.-])"
)


@cache
def _compiled(pattern: str) -> "re.Pattern[str]":
    """Compiled when it is first needed: the first answer of a process does not wait for it."""
    return re.compile(pattern)


class Redactor:
    """Replaces secrets in texts and in the values of fields.

    Args:
        known: secrets that this process knows, for example its keys; shorter than 6 characters are
            passed over, because they would be found in every other word.
    """

    def __init__(self, known: Iterable[str] = ()) -> None:
        spelled = {form for secret in known for form in (secret, quote(secret, safe=""))}
        found = sorted((s for s in spelled if len(s) >= _KNOWN_LENGTH_MIN), key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, found))) if found else None

    def text(self, text: str) -> str:
        """`text` with each secret replaced by `[redacted]`."""
        if self._known is not None:
            text = self._known.sub(REDACTED, text)
        small = text.lower()
        if any(trigger in small for trigger in _TRIGGERS):
            text = _compiled(_LOOKS_SECRET).sub(_replaced, text)
        return _compiled(_RANDOM_PART).sub(REDACTED, text) if "/" in text else text

    def field(self, name: str, value: Any) -> Any:
        """The value of a field, or `[redacted]` where its name or its content is a secret's.

        Mappings and sequences are looked through; what is neither these, nor a number, None or a
        text, becomes its `str`.
        """
        return self._field(name, value, depth=0)

    def _field(self, name: str, value: Any, *, depth: int) -> Any:
        if value is None or isinstance(value, (bool, float)):
            return value
        if _is_secret(name):
            return REDACTED
        if name == "code" and _compiled(_CODE).fullmatch(str(value)):
            return REDACTED
        if isinstance(value, int):
            return value
        if isinstance(value, (Mapping, list, tuple)) and depth < _DEPTH_MAX:
            return self._inside(name, value, depth=depth + 1)
        return self.text(value.decode(errors="replace") if isinstance(value, bytes) else str(value))

    def _inside(self, name: str, value: Any, *, depth: int) -> Any:
        if isinstance(value, Mapping):
            return {
                str(key): self._field(_text(key), item, depth=depth) for key, item in value.items()
            }
        if len(value) == 2 and isinstance(value[0], (str, bytes)):  # a header, a parameter
            return [_text(value[0]), self._field(_text(value[0]), value[1], depth=depth)]
        return [self._field(name, item, depth=depth) for item in value]


@lru_cache(4096)
def _is_secret(name: str) -> bool:
    return _compiled(_SECRET_NAME).search(name) is not None


def _text(name: Any) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)


def _replaced(found: "re.Match[str]") -> str:
    return f"{found[found.lastgroup or 0]}{REDACTED}"
