"""`/statusz`, rendered by the gate itself: it works while loading and after a failure.

One renderer makes the page and the event stream
(https://html.spec.whatwg.org/multipage/server-sent-events.html): an event carries the sections that
changed since the last one.
"""

import asyncio
import json
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from asgi_health.probes import Answer
from asgi_health.types import Message, Receive, Send

__all__ = [
    "END_EVENT",
    "EVENT_HEADERS",
    "event_of",
    "render_json",
    "render_page",
    "render_sections",
    "stream_events",
]

EVENT_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
)
END_EVENT = b"event: end\ndata: draining\n\n"
"""The last of a process that was told to stop."""

_INTERVAL_S = 0.5
_HEARTBEAT_S = 15.0
_PLACE = re.compile(r"@(nonce|title|events|sections)@")

Data = Mapping[str, Any]


def render_page(data: Data, *, events_path: str) -> Answer:
    """The whole page."""
    nonce = secrets.token_urlsafe(16)
    sections = "".join(
        f'<section id="{name}">{html}</section>' for name, html in render_sections(data).items()
    )
    values = {
        "nonce": nonce,
        "title": escape(data["title"]),
        "events": escape(events_path),
        "sections": sections,
    }
    text = _PLACE.sub(lambda place: values[place[1]], _template())
    body = text.encode("utf-8", "backslashreplace")
    policy = (
        f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    )
    return Answer(
        status=200,
        headers=(
            (b"content-type", b"text/html; charset=utf-8"),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
            (b"content-security-policy", policy.encode("ascii")),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
        ),
        body=body,
    )


@cache
def _template() -> str:
    return Path(__file__).with_name("statuspage.html").read_text(encoding="utf-8")


def render_json(data: Data) -> Answer:
    """The same facts as JSON."""
    body = json.dumps(data, ensure_ascii=False, indent=2).encode("utf-8", "backslashreplace")
    headers = (
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
    )
    return Answer(status=200, headers=headers, body=body)


async def stream_events(
    collect: Callable[[], Data], is_closing: Callable[[], bool], receive: Receive, send: Send
) -> None:
    """Send what changed, twice a second at most, until the client leaves or the process stops."""
    await send({"type": "http.response.start", "status": 200, "headers": [*EVENT_HEADERS]})
    gone = asyncio.ensure_future(_until_gone(receive))
    try:
        await _send_changes(collect, is_closing, gone, send)
        left = gone.done()
    finally:
        gone.cancel()
    if not left:
        await send({"type": "http.response.body", "body": END_EVENT})


async def _send_changes(
    collect: Callable[[], Data],
    is_closing: Callable[[], bool],
    gone: "asyncio.Future[None]",
    send: Send,
) -> None:
    shown: dict[str, str] = {}
    silent_s = 0.0
    while not (gone.done() or is_closing()):
        event, silent_s = event_of(collect(), shown), silent_s + _INTERVAL_S
        if event or silent_s >= _HEARTBEAT_S:
            body = event or b": still here\n\n"
            await send({"type": "http.response.body", "body": body, "more_body": True})
            silent_s = 0.0
        await asyncio.wait({gone}, timeout=_INTERVAL_S)


def event_of(data: Data, shown: dict[str, str]) -> bytes:
    """The event with the sections that differ from `shown`, which it updates; empty when none."""
    sections = render_sections(data)
    changed = {name: html for name, html in sections.items() if shown.get(name) != html}
    shown.update(changed)
    return f"data: {json.dumps(changed)}\n\n".encode() if changed else b""


async def _until_gone(receive: Receive) -> None:
    message: Message = {"type": ""}
    while message["type"] != "http.disconnect":
        message = await receive()


def render_sections(data: Data) -> dict[str, str]:
    """The sections of the page by name, as HTML; every value is escaped."""
    return {
        "head": _head(data),
        "failure": _failure(data),
        "checks": _checks(data),
        "boot": _boot(data),
        "slowest": _slowest(data),
        "workers": _workers(data),
        "endings": _endings(data),
        "requests": _requests(data),
        "application": _application(data),
    }


def _head(data: Data) -> str:
    ready = data["ready"]
    word = "ready" if ready else data["code"] or data["phase"]
    facts = {
        "phase": data["phase"],
        "since": _seconds(data["phase_s"]),
        "process": f"{data['pid']}, up {_seconds(data['uptime_s'])}",
        "release": data["release"] or "not named",
        "versions": ", ".join(f"{name} {version}" for name, version in data["versions"].items()),
    }
    return (
        f'<h1><span class="dot {"good" if ready else "bad"}"></span>'
        f"{escape(data['title'])}: {escape(word)}</h1>" + _definitions(facts)
    )


def _failure(data: Data) -> str:
    failure = data["failure"]
    if failure is None:
        return ""
    return (
        f"<h2>Why the boot failed: {escape(failure['code'])}</h2>"
        f"<p>{_lines(failure['message'])}</p><pre>{escape(failure['traceback'])}</pre>"
    )


def _checks(data: Data) -> str:
    rows = [
        (
            check["name"],
            "ok" if check["passed"] else check["code"] or "failed",
            check["output"] or "",
        )
        for check in data["checks"]
    ]
    return "<h2>Readiness</h2>" + _table(("check", "result", "reason"), rows)


def _boot(data: Data) -> str:
    boot = data["boot"]
    if boot is None:
        return "<h2>Boot</h2><p>Not begun.</p>"
    total_s = max(boot["total_s"], 0.001)
    rows = "".join(_bar(step, total_s) for step in boot["steps"])
    share = f"{boot['cpu_share']:.0%} of it computing" if boot["cpu_s"] else "still loading"
    return f'<h2>Boot: {_seconds(boot["total_s"])}, {share}</h2><table class="bars">{rows}</table>'


def _bar(step: Mapping[str, Any], total_s: float) -> str:
    start = 100 * step["start_s"] / total_s
    duration_s = step["duration_s"]
    width = 100 - start if duration_s is None else 100 * duration_s / total_s
    label = "running" if duration_s is None else _seconds(duration_s)
    return (
        f'<tr><th scope="row">{escape(step["name"])}</th><td>'
        '<svg viewBox="0 0 100 8" preserveAspectRatio="none" role="img" '
        f'aria-label="{label}">'
        f'<rect x="{start:.2f}" y="0" width="{max(width, 0.3):.2f}" height="8"/></svg></td>'
        f'<td class="number">{label}</td></tr>'
    )


def _slowest(data: Data) -> str:
    boot = data["boot"]
    if boot is None or not boot["slowest_modules"]:
        return ""
    modules = [(entry["name"], f"{1000 * entry['own_s']:.1f}") for entry in boot["slowest_modules"]]
    apps = [
        (
            app["name"],
            *(f"{1000 * app[part]:.1f}" for part in ("s", "import_s", "models_s", "ready_s")),
        )
        for app in boot["slowest_apps"]
    ]
    html = "<h2>Slowest modules, by own time</h2>" + _table(("module", "ms"), modules)
    if apps:
        html += "<h2>Slowest apps</h2>" + _table(("app", "ms", "import", "models", "ready()"), apps)
    return html


def _workers(data: Data) -> str:
    rows = [
        (
            str(worker["pid"]),
            str(worker["generation"] or ""),
            _state(worker),
            _seconds(worker["age_s"]),
            f"{worker['rss_bytes'] / 2**20:.0f} MiB",
            str(worker["in_flight"]),
            str(worker["served"]),
            _seconds(worker["loop_lag_s"]),
        )
        for worker in data["workers"]
    ]
    head = ("pid", "number", "phase", "age", "memory", "in flight", "served", "loop lag")
    restarts = f": {data['restarts']} replaced" if data["restarts"] else ""
    return f"<h2>Workers{restarts}</h2>" + _table(head, rows) if rows else ""


def _state(worker: Mapping[str, Any]) -> str:
    if worker["leaving"]:
        return f"{worker['phase']}, leaving"
    is_new = worker["phase"] in {"starting", "loading"} and not worker["accepting"]
    return f"{worker['phase']}, joining" if is_new else str(worker["phase"])


def _endings(data: Data) -> str:
    rows = [
        (
            str(ending["pid"]),
            str(ending["generation"]),
            _moment(ending["at"]),
            ending["reason"],
            ending["last_words"],
        )
        for ending in reversed(data["endings"])
    ]
    head = ("pid", "number", "when", "why", "last words")
    return "<h2>Workers that ended</h2>" + _table(head, rows) if rows else ""


def _requests(data: Data) -> str:
    rows = [(name.replace("_", " "), str(count)) for name, count in data["requests"].items()]
    return "<h2>Early requests</h2>" + _table(("what", "count"), rows)


def _application(data: Data) -> str:
    rows = [(name.replace("_", " "), str(value)) for name, value in data["application"].items()]
    return "<h2>Application</h2>" + _table(("what", "now"), rows) if rows else ""


def _definitions(facts: Mapping[str, str]) -> str:
    return (
        "<dl>"
        + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items())
        + "</dl>"
    )


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{_lines(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _lines(text: str) -> str:
    return escape(text).replace("\n", "<br>")


def _moment(epoch_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(epoch_s))


def _seconds(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = int(seconds // 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
