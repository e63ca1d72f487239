"""What a request asks: `Accept`, `?format`, `?verbose`, `?exclude`; nothing it sends raises."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_health.query import Format, Kind, Query, parse_query, printable


def parsed(query: bytes = b"", accept: bytes = b"") -> Query:
    return parse_query(Kind.READY, query_string=query, accept=accept)


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        (b"", Format.TEXT),
        (b"*/*", Format.TEXT),
        (b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Format.TEXT),
        (b"text/plain", Format.TEXT),
        (b"application/json", Format.JSON),
        (b"APPLICATION/JSON", Format.JSON),
        (b"application/health+json", Format.HEALTH_JSON),
        (b"application/health+json, application/json", Format.HEALTH_JSON),
        (b"application/json, application/health+json", Format.JSON),
        (b"application/json;q=0.5, application/health+json;q=0.9", Format.HEALTH_JSON),
        (b"text/plain, application/json", Format.TEXT),
        (b"text/plain;q=0.1, application/json", Format.JSON),
        (b"text/plain;q=0.5, application/json;q=0.4", Format.TEXT),
        (b"application/json;q=0", Format.TEXT),
        (b"application/json; q=0.0, */*", Format.TEXT),
        (b"application/json;charset=utf-8", Format.JSON),
        (b"application/json;v=1;q=0.2, text/plain;q=0.3", Format.TEXT),
        (b" application/json , */*;q=0.8", Format.JSON),
        (b"application/json;q=abc", Format.TEXT),
        (b"application/json;q=nan", Format.TEXT),
        (b"application/json;q=-1", Format.TEXT),
        (b"application/jsonp", Format.TEXT),
        (b"application/*", Format.TEXT),
        (b"\xff\xfe", Format.TEXT),
        (b",;,=;q=", Format.TEXT),
        (b"text/x," * 40 + b"application/json", Format.TEXT),
    ],
)
def test_accept_chooses_the_best_of_three_formats(accept: bytes, media: Format) -> None:
    assert parsed(accept=accept).format is media


@pytest.mark.parametrize(
    ("query", "media"),
    [(b"format=json", Format.JSON), (b"format=text", Format.TEXT), (b"x=1", Format.HEALTH_JSON)],
)
def test_the_query_wins_over_accept(query: bytes, media: Format) -> None:
    assert parsed(query, b"application/health+json").format is media


@pytest.mark.parametrize("query", [b"verbose", b"verbose=", b"verbose=1", b"a&verbose=yes&b"])
def test_verbose_needs_no_value(query: bytes) -> None:
    assert parsed(query).verbose


@pytest.mark.parametrize("query", [b"", b"verbose=0", b"verbose=False", b"Verbose", b"verbosel"])
def test_verbose_can_be_off(query: bytes) -> None:
    assert not parsed(query).verbose


def test_exclude_can_be_repeated_and_is_decoded() -> None:
    assert parsed(b"exclude=a&exclude=b%20c&exclude=").exclude == ("a", "b c", "")


@pytest.mark.parametrize(
    ("query", "warning"),
    [
        (b"format=xml", "unknown format 'xml' (known: json, text)"),
        (b"format=", "unknown format '' (known: json, text)"),
        (b"format=%0d%0ax", "unknown format '\\r\\nx' (known: json, text)"),
        (b"format=%e2%82%ac", "unknown format '\\\\u20ac' (known: json, text)"),
        (b"format=" + b"a" * 500, f"unknown format '{'a' * 64}' (known: json, text)"),
    ],
)
def test_an_unknown_format_is_a_warning_in_short_plain_ascii(query: bytes, warning: str) -> None:
    found = parsed(query)
    assert found.warnings == (warning,)
    assert found.format is Format.TEXT


def test_unknown_names_are_ignored() -> None:
    assert parsed(b"a=1&b&=c&%00=%00") == Query(kind=Kind.READY)


def test_a_query_of_thousands_of_names_gives_a_short_answer() -> None:
    found = parsed(b"&".join([b"exclude=a"] * 5000))
    assert len(found.exclude) <= 64


@given(query=st.binary(max_size=300), accept=st.binary(max_size=300))
def test_no_bytes_whatever_make_it_raise(query: bytes, accept: bytes) -> None:
    found = parsed(query, accept)
    assert len(found.exclude) + len(found.warnings) <= 64


@given(st.text())
def test_what_is_printed_is_one_short_line_of_ascii(text: str) -> None:
    shown = printable(text)
    assert shown.isascii()
    assert shown.isprintable()
    assert len(shown) < 1500
