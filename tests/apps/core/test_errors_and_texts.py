"""Errors: each has a code of its own, and a sentence in each language that takes its values."""

import string

import pytest
from django.utils import translation

import project.api  # noqa: F401 - defines errors of its own
from apps.core.errors import DomainError
from apps.core.texts import Text
from project.validation import _TEXTS


def every_error() -> list[type[DomainError]]:
    found: list[type[DomainError]] = []
    waiting = [DomainError]
    while waiting:
        children = waiting.pop().__subclasses__()
        found += children
        waiting += children
    return found


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def test_no_two_errors_share_a_code() -> None:
    codes = [error.code for error in every_error()]

    assert sorted(codes) == sorted(set(codes))
    assert len(codes) >= 8


@pytest.mark.parametrize("error", every_error(), ids=lambda error: error.__name__)
def test_an_error_has_a_domain_a_client_status_and_both_languages(error) -> None:
    domain, _, name = error.code.partition(".")

    assert domain
    assert name
    assert 400 <= error.status < 500 or error.code == "server.error"
    assert_speaks_both(error.text)


@pytest.mark.parametrize("kind", _TEXTS)
def test_a_message_of_the_validation_speaks_both_languages(kind: str) -> None:
    assert_speaks_both(_TEXTS[kind])


def assert_speaks_both(text: Text) -> None:
    assert text.en.isascii() or "“" in text.en
    assert any("가" <= letter <= "힣" for letter in text.ko)
    assert placeholders(text.en) == placeholders(text.ko)


def test_a_text_follows_the_active_language() -> None:
    text = Text(en="{count} cuts", ko="컷 {count}개")

    for language, expected in (
        ("ko", "컷 2개"),
        ("ko-kr", "컷 2개"),
        ("en", "2 cuts"),
        ("fr", "2 cuts"),
    ):
        with translation.override(language):
            assert text.format(count=2) == expected
