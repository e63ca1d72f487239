"""The front page says what this is, in two languages, and every link on it leads somewhere."""

import re

import pytest
from django.test import Client

from project.static_files import with_static_files

LINK = re.compile(r'(?:href|src)="([^"]+)"')


def page(client: Client, language: str = "en") -> str:
    answer = client.get("/", headers={"accept-language": language})
    assert answer.status_code == 200
    return answer.content.decode()


@pytest.mark.parametrize(
    ("accepted", "language", "words"),
    [
        ("en-US,en;q=0.9", "en", "API documentation"),
        ("ko-KR,ko;q=0.9,en;q=0.5", "ko", "API 문서"),
        ("de", "en", "API documentation"),
    ],
)
def test_the_page_speaks_the_visitors_language(
    client: Client, accepted: str, language: str, words: str
) -> None:
    text = page(client, accepted)

    assert f'<html lang="{language}">' in text
    assert words in text


def test_both_languages_have_the_same_links(client: Client) -> None:
    assert LINK.findall(page(client, "ko")) == LINK.findall(page(client, "en"))


@pytest.mark.django_db
def test_every_link_leads_somewhere(client: Client) -> None:
    links = set(LINK.findall(page(client)))
    probes = {"/statusz", "/readyz", "/livez"}
    own = {link for link in links if link.startswith("/") and not link.startswith("/static/")}

    assert own == probes | {"/api/docs", "/api/openapi.json", "/admin/"}
    for link in own - probes:
        assert client.get(link, follow=True).status_code == 200
    served = with_static_files(None)
    assert {link for link in links if link.startswith("/static/")} <= set(served.files)
    assert links - own - set(served.files) == {"https://vlanet.net"}


def test_the_page_loads_nothing_from_elsewhere_and_touches_no_database(client: Client) -> None:
    answer = client.get("/")

    assert "default-src 'none'" in answer["Content-Security-Policy"]
    assert "<script" not in answer.content.decode()
    assert not re.search(r'(?:src|<link[^>]*href)="https?:', answer.content.decode())


def test_the_page_takes_no_post(client: Client) -> None:
    assert client.head("/").status_code == 200
    assert client.post("/").status_code == 405
