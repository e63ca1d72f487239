"""No secret in a log: what looks like one, what is named like one, and the ones that we know.

A false alarm costs a word of a log line; a leak costs an account. In doubt it is redacted.
"""

import math
import re
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from typing import Any, Final
from urllib.parse import quote

__all__ = ["REDACTED", "Redactor"]

REDACTED: Final = "[redacted]"
_KNOWN_LENGTH_MIN: Final = 6
_LONG: Final = 16
_REMEMBERED: Final = 1024
_SHORT: Final = 128
"""Routes and messages come again in each access line: to look through them is half of its cost."""

_HUMP: Final = r"(?<=[a-z0-9])(?=[A-Z])"
_DEPTH_MAX: Final = 6

_NAMES: Final = (
    r"passw(?:or)?d|passphrase|passcode|pwd|secret|token|(?:api|private|access|encryption)[_-]?key"
    r"|authorization|credential|cookie|session[_-]?(?:id|key)|csrf\w{0,20}|signature|otp|jwt|dsn"
    r"|(?:verification|reset|signup|confirm\w{0,5}|recovery|login|auth|otp|email)[_-]?code"
    r"|database[_-]?url|비밀번호|인증번호|인증코드|토큰"
)
_ONLY_NAMES: Final = "session|pass|pin|auth|bearer"
"""Secrets as the whole name, harmless as a part of one."""

_SECRET_NAME: Final = rf"(?i:^(?:{_ONLY_NAMES})$|(?:^|[_-])(?:{_NAMES})s?\d*(?:$|[_-]))"
_HARMLESS_NAME: Final = r"(?i:^(?:max|min|has|is)[_-]|[_-](?:count|type|at|s|length|used|open)$)"
_CODE: Final = r"\s*\d{4,10}\s*"

_BETWEEN: Final = (
    r"(?:\\*[\"']\s{0,20}(?:[:=,]|=>|(?:\r?\n){2})|\s{0,20}(?:[:=>]|=>|%3[AaDd])|\)=\()"
    r"\s{0,20}(?:b(?=[\"']))?"
)
"""A name and its value, in a header, an address, JSON, a repr, a form, a row."""

_VALUE: Final = (
    r"(?:\\*\"(?:\\.|[^\"\\\n])*\"?|\\*'(?:\\.|[^'\\\n])*'?|[\[({][^\n\])}]*"
    r"|(?i:(?:bearer|basic|digest|token)\s+)?[^\s&\"'<>)\]}]+)"
)
# What stays, so that a reader sees what was there, and the secret after it. Every repetition before
# something else is bounded, so that no text takes more than linear time.
_SHAPES: Final = (
    # To the end of the line: all cookies of a header, all parts of credentials.
    (r"(?i:\b(?:set-cookie|cookies?|authorization)\b\\*[\"']?\s{0,4}[:=,]\s{0,4})", r"[^\n]+"),
    (rf"(?i:(?<![\w-])[\w-]{{0,40}}?(?:{_NAMES})[\w-]{{0,40}}{_BETWEEN})", _VALUE),
    (r"(?i:[?&;](?:code|key|sig|state|ticket|t|pass|auth)=)", r"[^&\s#\"'<>]+"),
    (r"(?i:\b(?:bearer|basic)\s+)", r"[\w.~+/=-]{8,}"),
    (r"://", r"[^\s/@\"':]{0,200}:[^\s\"']{1,200}(?=@)|(?<=://)[^\s/@\"':]{1,200}(?=@)"),
    (r"(?i:\b(?:code|otp|pin)\b[\"']?(?:\s+is)?[\s:=]{1,4}[\"']?)", r"\d{4,10}\b"),
    (r"\b", r"eyJ[\w-]{5,}\.[\w-]{5,}(?:\.[\w-]*)?"),
    (r"-----BEGIN [A-Z ]{0,30}KEY-----", r"(?s:.{0,8000}?)(?=-----END|\Z)"),
    (r"\b", r"(?:argon2|pbkdf2_sha\d{1,3}|scrypt|bcrypt\w{0,10})\$\S+"),
)
_LOOKS_SECRET: Final = "|".join(
    f"(?P<kept{number}>{kept})(?:{secret})" for number, (kept, secret) in enumerate(_SHAPES)
)
_TRIGGERS: Final = (
    "pass", "pwd", "secret", "token", "key", "auth", "credential", "cookie", "session", "csrf",
    "sig", "otp", "jwt", "dsn", "database", "code", "state", "ticket", "t=", "bearer", "basic", "://",
    "pin", "eyj", "-----begin", "argon2", "pbkdf2", "scrypt", "bcrypt", "비밀", "인증", "토큰",
)  # fmt: skip
"""In small letters; a text with none of them can match none of the patterns."""

_UUID: Final = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_RANDOM_PART: Final = (
    # Of a path: letters of both kinds, many digits among letters, or many hexadecimal digits.
    rf"(?<=/)(?!{_UUID}(?![\w-]))(?:(?=[\w-]*[a-z])(?=[\w-]*[A-Z])[\w-]{{20,}}"
    r"|(?=(?:[\w-]*?\d){4})(?=[\w-]*[A-Za-z])[\w-]{20,}|[0-9a-f]{32,})(?![\w-]|\.\w{1,5}\b)"
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
        self._known = re.compile("|".join(map(_exactly, found))) if found else None
        self._short = lru_cache(_REMEMBERED)(self._replace)

    def text(self, text: str) -> str:
        """`text` with each secret replaced by `[redacted]`."""
        return self._short(text) if len(text) <= _SHORT else self._replace(text)

    def _replace(self, text: str) -> str:
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
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else str(value)
        if _is_secret(name):
            return REDACTED
        if name == "code" and _compiled(_CODE).fullmatch(str(value)):
            return REDACTED
        if isinstance(value, int):
            return value
        if isinstance(value, (Mapping, list, tuple)) and depth < _DEPTH_MAX:
            return self._inside(name, value, depth=depth + 1)
        return self.text(_text(value))

    def _inside(self, name: str, value: Any, *, depth: int) -> Any:
        if isinstance(value, Mapping):
            return {
                self.text(_text(key)): self._field(_text(key), item, depth=depth)
                for key, item in value.items()
            }
        if len(value) == 2 and isinstance(value[0], (str, bytes)):  # a header, a parameter
            first = _text(value[0])
            return [self.text(first), self._field(first, value[1], depth=depth)]
        return [self._field(name, item, depth=depth) for item in value]


def _exactly(secret: str) -> str:
    """The pattern of a known secret: a short one may be a part of a word that is none."""
    pattern = re.escape(secret)
    return pattern if len(secret) >= _LONG else rf"(?<!\w){pattern}(?!\w)"


@lru_cache(4096)
def _is_secret(name: str) -> bool:
    spelled = _compiled(_HUMP).sub("_", name)  # refreshToken
    if _compiled(_HARMLESS_NAME).search(spelled):
        return False
    return _compiled(_SECRET_NAME).search(spelled) is not None


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001 - a line that cannot be written tells nobody anything
        return f"<{type(value).__name__} without a text: {type(error).__name__}>"


def _replaced(found: "re.Match[str]") -> str:
    kept = next(text for text in found.groups() if text is not None)
    return f"{kept}{REDACTED}"
