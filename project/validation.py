"""Say in the reader's language what is wrong with which field of a request."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from apps.core.texts import Text

__all__ = ["field_messages"]

_TEXTS: Final[Mapping[str, Text]] = {
    "missing": Text(en="This is needed.", ko="필수 항목입니다."),
    "extra_forbidden": Text(en="There is no such field.", ko="알 수 없는 항목입니다."),
    "string_type": Text(en="A text is needed.", ko="문자열이어야 합니다."),
    "string_unicode": Text(en="This is not valid text.", ko="올바른 문자열이 아닙니다."),
    "string_too_short": Text(
        en="At least {min_length} character(s).", ko="{min_length}자 이상 입력해 주세요."
    ),
    "string_too_long": Text(
        en="At most {max_length} characters.", ko="{max_length}자 이하로 입력해 주세요."
    ),
    "string_pattern_mismatch": Text(
        en="This does not have the right form.", ko="형식이 올바르지 않습니다."
    ),
    "int_type": Text(en="A whole number is needed.", ko="정수여야 합니다."),
    "int_parsing": Text(en="A whole number is needed.", ko="정수여야 합니다."),
    "greater_than_equal": Text(en="At least {ge}.", ko="{ge} 이상이어야 합니다."),
    "less_than_equal": Text(en="At most {le}.", ko="{le} 이하여야 합니다."),
    "literal_error": Text(en="Allowed: {expected}.", ko="허용되는 값: {expected}."),
    "enum": Text(en="Allowed: {expected}.", ko="허용되는 값: {expected}."),
    "date_type": Text(en="A day is needed: YYYY-MM-DD.", ko="날짜는 YYYY-MM-DD 형식이어야 합니다."),
    "date_parsing": Text(
        en="A day is needed: YYYY-MM-DD.", ko="날짜는 YYYY-MM-DD 형식이어야 합니다."
    ),
    "date_from_datetime_parsing": Text(
        en="A day is needed: YYYY-MM-DD.", ko="날짜는 YYYY-MM-DD 형식이어야 합니다."
    ),
    "date_from_datetime_inexact": Text(
        en="A day without time is needed: YYYY-MM-DD.",
        ko="시각 없이 YYYY-MM-DD 형식이어야 합니다.",
    ),
}


def field_messages(errors: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Group pydantic's errors by field, in the active language where we have a text of our own."""
    messages: dict[str, list[str]] = {}
    for error in errors:
        messages.setdefault(_field(error["loc"]), []).append(_message(error))
    return messages


def _field(location: tuple[str | int, ...]) -> str:
    """The path of a field: without where it came from, and without the name of our parameter."""
    source, *path = location
    if source in {"body", "form", "file"} and len(path) > 1:
        path = path[1:]
    return ".".join(map(str, path)) or str(source)


def _message(error: Mapping[str, Any]) -> str:
    text = _TEXTS.get(error["type"])
    return text.format(**error.get("ctx", {})) if text else str(error["msg"])
