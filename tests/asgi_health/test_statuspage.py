"""The page for people: everything escaped, sections that change, a stream that ends."""

import asyncio
import copy
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from server_side import Exchange, http_scope, limited, other_tasks, settle

from asgi_health.statuspage import render_json, render_page, render_sections, stream_events


def worker(pid: int, phase: str, **more: Any) -> dict[str, Any]:
    """A row of the table of workers."""
    row = {"pid": pid, "phase": phase, "accepting": True, "age_s": 3.0, "rss_bytes": 0}
    return (
        row
        | {"generation": 0, "in_flight": 0, "served": 0, "loop_lag_s": 0.0, "leaving": False}
        | more
    )


DATA: dict[str, Any] = {
    "title": "Service",
    "ready": True,
    "phase": "ready",
    "code": None,
    "phase_s": 12.5,
    "uptime_s": 30.0,
    "pid": 7,
    "time": "2026-01-02T03:04:05Z",
    "release": None,
    "failure": None,
    "checks": [{"name": "boot", "passed": True, "code": None, "output": "phase ready"}],
    "boot": {
        "total_s": 2.0,
        "cpu_s": 1.0,
        "cpu_share": 0.5,
        "steps": [
            {"name": "import", "start_s": 0.0, "duration_s": 1.5},
            {"name": "load", "start_s": 1.5, "duration_s": None},
        ],
        "slowest_modules": [{"name": "a.b", "own_s": 0.25}],
        "slowest_apps": [
            {"name": "app", "s": 0.75, "import_s": 0.5, "models_s": 0.25, "ready_s": 0.0}
        ],
    },
    "workers": [
        worker(8, "ready", rss_bytes=2**21, generation=4, in_flight=5, served=60),
        worker(9, "loading", accepting=False),
        worker(10, "draining", leaving=True),
    ],
    "endings": [
        {
            "pid": 6,
            "generation": 3,
            "at": 0.0,
            "reason": "killed by SIGSEGV",
            "signal": "SIGSEGV",
            "exit_code": None,
            "out_of_memory": False,
            "last_words": "Traceback\n  end",
        }
    ],
    "restarts": 1,
    "requests": {"held_now": 1, "handed_over": 2},
    "application": {"handoff": "fast", "threads_lent": 3},
    "versions": {"python": "3.11.1"},
}
FAILED = DATA | {
    "ready": False,
    "phase": "failed",
    "code": "boot.error",
    "failure": {"code": "boot.error", "message": "one\ntwo", "traceback": "Traceback\n  line"},
}


def with_text_everywhere(text: str) -> dict[str, Any]:
    """Every string of the page's data, replaced."""

    def replaced(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: replaced(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [replaced(inner) for inner in value]
        return text if isinstance(value, str) else value

    data = replaced(copy.deepcopy(FAILED))
    data |= {
        "release": text,
        "versions": {text: text},
        "requests": {text: 1},
        "application": {text: text},
    }
    return data


class Elements(HTMLParser):
    """Which elements and attributes a text of HTML has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[str, ...]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found.append((tag, tuple(name for name, _ in attrs)))


def elements(data: dict[str, Any]) -> list[tuple[str, tuple[str, ...]]]:
    page = render_page(data, events_path="/statusz/events").body.decode()
    return Elements(page).found


PLAIN = elements(with_text_everywhere("x"))
nasty = st.sampled_from(
    [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "' onmouseover='alert(1)",
        "</title><script>",
        "@nonce@",
        "@sections@",
        "&lt;b&gt;",
        "\ud800",
        "]]>",
        "<!--",
        "\x00",
        "</section>",
        "\\1",
        "{title}",
    ]
)


@given(parts=st.lists(nasty | st.text(max_size=20), min_size=1, max_size=4))
def test_no_text_whatever_adds_an_element_or_an_attribute(parts: list[str]) -> None:
    text = "".join(parts).replace("\n", "")
    assert elements(with_text_everywhere(text)) == PLAIN


@given(text=nasty)
def test_the_path_of_the_events_is_escaped(text: str) -> None:
    page = render_page(DATA, events_path=text).body.decode()
    clean = render_page(DATA, events_path="x").body.decode()
    assert Elements(page).found == Elements(clean).found


@given(text=nasty | st.text())
def test_the_json_form_carries_any_text(text: str) -> None:
    answer = render_json(with_text_everywhere(text))
    found = json.loads(answer.body)
    if not re.search("[\ud800-\udfff]", text):
        assert found["failure"]["message"] == text
    assert dict(answer.headers)[b"content-length"] == b"%d" % len(answer.body)


def test_the_json_form_is_the_data() -> None:
    answer = render_json(DATA)
    assert json.loads(answer.body) == DATA
    assert answer.headers[0] == (b"content-type", b"application/json")
    assert (b"cache-control", b"no-store") in answer.headers


def test_every_page_has_its_own_nonce_and_allows_nothing_else() -> None:
    nonces = set()
    for _ in range(20):
        answer = render_page(DATA, events_path="/e")
        headers = dict(answer.headers)
        policy = headers[b"content-security-policy"].decode()
        [nonce] = set(re.findall(r"nonce-([\w-]+)", policy))
        assert set(re.findall(r'nonce="([^"]+)"', answer.body.decode())) == {nonce}
        assert policy.startswith("default-src 'none'; ")
        assert "unsafe" not in policy
        assert headers[b"content-length"] == b"%d" % len(answer.body)
        assert headers[b"cache-control"] == b"no-store"
        assert headers[b"x-content-type-options"] == b"nosniff"
        nonces.add(nonce)
    assert len(nonces) == 20


def test_every_style_and_script_has_the_nonce_and_no_attribute_runs_code() -> None:
    for tag, names in elements(FAILED):
        assert not [name for name in names if name.startswith("on") or name == "style"]
        if tag in {"script", "style"}:
            assert "nonce" in names


def test_the_page_says_what_people_look_for() -> None:
    text = render_page(FAILED, events_path="/e").body.decode()
    for part in (
        "Service: boot.error",
        "one<br>two",
        "Traceback\n  line",
        "phase ready",
        "50% of it computing",
        "running",
        "a.b",
        "250.0",
        "loading, joining",
        "2 MiB",
        "held now",
        "python 3.11.1",
        "not named",
    ):
        assert part in text, part


def test_the_sections_of_an_unfinished_or_empty_boot_are_shown_too() -> None:
    none = render_sections(DATA | {"boot": None, "workers": []})
    assert "Not begun" in none["boot"]
    assert none["slowest"] == none["workers"] == none["failure"] == ""
    boot = DATA["boot"] | {"total_s": 0.0, "cpu_s": 0.0, "steps": [], "slowest_modules": []}
    assert "still loading" in render_sections(DATA | {"boot": boot})["boot"]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.0004, "0 ms"),
        (0.25, "250 ms"),
        (1.0, "1.0 s"),
        (9.94, "9.9 s"),
        (12.5, "12 s"),
        (119.0, "119 s"),
        (120.0, "2 min"),
        (7199.0, "119 min"),
        (7200.0, "2 h 0 min"),
        (90061.0, "25 h 1 min"),
    ],
)
def test_durations_are_said_as_people_say_them(seconds: float, shown: str) -> None:
    assert f"<dd>{shown}</dd>" in render_sections(DATA | {"phase_s": seconds})["head"]


# The stream.


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asgi_health.statuspage._INTERVAL_S", 0.001)


class Stream:
    """One client of the event stream, whose page's data the test changes."""

    def __init__(self) -> None:
        self.data: dict[str, Any] = copy.deepcopy(DATA)
        self.closing = False
        self.asked = 0

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await stream_events(self.collect, lambda: self.closing, receive, send)

        self.exchange = Exchange(app, http_scope("/statusz/events"))

    def collect(self) -> dict[str, Any]:
        self.asked += 1
        return self.data

    async def looks(self, times: int = 3) -> None:
        """Wait until the stream has looked at the data again."""
        async with asyncio.timeout(20):
            until = self.asked + times
            while self.asked < until:  # noqa: ASYNC110 - counts what the stream does
                await asyncio.sleep(0)

    def events(self) -> list[dict[str, str]]:
        bodies = [m["body"] for m in self.exchange.sent[1:]]
        return [json.loads(b[6:-2]) for b in bodies if b.startswith(b"data: ")]


async def test_the_stream_begins_with_all_sections_and_then_sends_what_changed() -> None:
    stream = Stream()
    await stream.looks()
    assert stream.exchange.status == 200
    assert stream.exchange.headers == {
        b"content-type": b"text/event-stream; charset=utf-8",
        b"cache-control": b"no-store",
        b"x-accel-buffering": b"no",
    }
    [first] = stream.events()
    assert first == render_sections(DATA)
    stream.data = DATA | {"requests": {"held_now": 5}}
    await stream.looks()
    assert stream.events()[1:] == [
        {"requests": render_sections(stream.data)["requests"]},
    ]
    stream.closing = True
    await stream.exchange.end()
    assert stream.exchange.sent[-1] == {
        "type": "http.response.body",
        "body": b"event: end\ndata: draining\n\n",
    }
    assert all(m["more_body"] for m in stream.exchange.sent[1:-1])
    await settle()
    assert other_tasks() == []


async def test_the_stream_ends_silently_when_the_client_leaves() -> None:
    stream = Stream()
    await stream.looks()
    stream.exchange.leave()
    await stream.exchange.end()
    assert stream.exchange.sent[-1]["more_body"]
    await settle()
    assert other_tasks() == []


async def test_the_stream_ends_when_the_process_is_stopping_already() -> None:
    stream = Stream()
    stream.closing = True
    await stream.exchange.end()
    assert stream.events() == []
    assert stream.exchange.body == b"event: end\ndata: draining\n\n"


async def test_a_silent_stream_sends_a_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asgi_health.statuspage._HEARTBEAT_S", 0.003)
    stream = Stream()
    await stream.looks(8)
    stream.closing = True
    await stream.exchange.end()
    assert b": still here\n\n" in [m["body"] for m in stream.exchange.sent[1:]]


async def test_no_event_has_a_line_that_ends_it_early() -> None:
    stream = Stream()
    stream.data = with_text_everywhere("a\n\nevent: x\r\ndata: y\u2028")
    await stream.looks()
    stream.closing = True
    await stream.exchange.end()
    body = stream.exchange.sent[1]["body"]
    assert body.count(b"\n") == 2
    assert body.endswith(b"\n\n")
    assert b"\r" not in body


@pytest.mark.parametrize("when", [1, 2, 3])
async def test_a_send_that_raises_leaves_no_task(when: int) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)
        if len(sent) == when:
            raise OSError("connection lost")

    closing = iter([False, False, True])
    changing = iter(range(100))
    with pytest.raises(OSError, match="connection lost"):
        await limited(
            stream_events(
                lambda: DATA | {"requests": {"held_now": next(changing)}},
                lambda: next(closing, True),
                asyncio.Event().wait,
                send,
            )
        )
    await settle()
    assert other_tasks() == []


async def test_a_receive_that_raises_ends_the_stream_without_an_unread_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def receive() -> Any:
        raise OSError("connection lost")

    await limited(stream_events(lambda: DATA, lambda: False, receive, _nowhere))
    await settle()
    assert "never retrieved" not in caplog.text


async def _nowhere(message: Any) -> None:
    """A client that is gone."""
