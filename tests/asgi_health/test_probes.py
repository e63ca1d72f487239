"""From a phase to status, headers and body: every question in every phase, byte for byte."""

import json
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_health.phase import Failure, Phase
from asgi_health.probes import Snapshot, check_names, judge, render, results
from asgi_health.query import Format, Kind, Query, parse_query

FAILURE = Failure(code="boot.import_error", message="ImportError: no 'x'", traceback="Traceback")

SNAPSHOTS = {
    "starting": Snapshot(phase=Phase.STARTING),
    "loading": Snapshot(phase=Phase.LOADING),
    "ready": Snapshot(phase=Phase.READY, was_ready=True),
    "draining": Snapshot(phase=Phase.DRAINING, was_ready=True),
    "draining while loading": Snapshot(phase=Phase.DRAINING),
    "stopped": Snapshot(phase=Phase.STOPPED, was_ready=True),
    "stopped while loading": Snapshot(phase=Phase.STOPPED),
    "failed": Snapshot(phase=Phase.FAILED, failure=FAILURE),
    "stopped after failing": Snapshot(phase=Phase.STOPPED, failure=FAILURE),
    "others load": Snapshot(
        phase=Phase.READY,
        was_ready=True,
        has_fleet=True,
        fleet_code="fleet.starting",
        fleet_output="worker 7 is still loading",
    ),
    "whole fleet ready": Snapshot(phase=Phase.READY, was_ready=True, has_fleet=True),
}

# The whole truth table: question, moment, word in plain text, code in JSON (- means 200).
TRUTH = """
livez    | starting               | ok                | -
livez    | loading                | ok                | -
livez    | ready                  | ok                | -
livez    | draining               | ok                | -
livez    | draining while loading | ok                | -
livez    | stopped                | ok                | -
livez    | stopped while loading  | ok                | -
livez    | failed                 | boot.import_error | boot.import_error
livez    | stopped after failing  | ok                | -
livez    | others load            | ok                | -
livez    | whole fleet ready      | ok                | -
readyz   | starting               | starting          | service.starting
readyz   | loading                | loading           | service.starting
readyz   | ready                  | ok                | -
readyz   | draining               | draining          | service.draining
readyz   | draining while loading | draining          | service.draining
readyz   | stopped                | stopped           | service.draining
readyz   | stopped while loading  | stopped           | service.draining
readyz   | failed                 | boot.import_error | boot.import_error
readyz   | stopped after failing  | boot.import_error | boot.import_error
readyz   | others load            | fleet.starting    | fleet.starting
readyz   | whole fleet ready      | ok                | -
startupz | starting               | starting          | service.starting
startupz | loading                | loading           | service.starting
startupz | ready                  | ok                | -
startupz | draining               | ok                | -
startupz | draining while loading | draining          | service.draining
startupz | stopped                | ok                | -
startupz | stopped while loading  | stopped           | service.draining
startupz | failed                 | boot.import_error | boot.import_error
startupz | stopped after failing  | boot.import_error | boot.import_error
startupz | others load            | ok                | -
startupz | whole fleet ready      | ok                | -
"""
ROWS = [tuple(cell.strip() for cell in row.split("|")) for row in TRUTH.strip().splitlines()]


def answer_to(kind: str, moment: str, **query: Any) -> Any:
    return render(Query(kind=Kind(kind), **query), SNAPSHOTS[moment])


def test_the_truth_table_is_whole() -> None:
    assert {row[:2] for row in ROWS} == set(product(map(str, Kind), SNAPSHOTS))


@pytest.mark.parametrize(("kind", "moment", "word", "code"), ROWS)
def test_every_question_at_every_moment_in_plain_text(
    kind: str, moment: str, word: str, code: str
) -> None:
    answer = answer_to(kind, moment)
    retry = () if code == "-" else ((b"retry-after", b"1"),)
    assert answer.status == (200 if code == "-" else 503)
    assert answer.body == word.encode()
    assert answer.headers == (
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(word)),
        (b"cache-control", b"no-store"),
        *retry,
    )


@pytest.mark.parametrize(("kind", "moment", "word", "code"), ROWS)
@pytest.mark.parametrize("media", [Format.JSON, Format.HEALTH_JSON])
def test_every_question_at_every_moment_in_json(
    kind: str, moment: str, word: str, code: str, media: Format
) -> None:
    answer = answer_to(kind, moment, format=media)
    phase = SNAPSHOTS[moment].phase.value
    expected: dict[str, Any] = {"status": "pass", "phase": phase}
    if code != "-":
        expected = {"status": "fail", "phase": phase, "code": code, "retry_after_s": 1}
    assert json.loads(answer.body) == expected
    assert answer.status == (200 if code == "-" else 503)
    assert answer.headers[0] == (b"content-type", media.value.encode())
    assert answer.headers[1] == (b"content-length", b"%d" % len(answer.body))


@pytest.mark.parametrize(("kind", "moment", "word", "code"), ROWS)
@pytest.mark.parametrize("verbose", [False, True])
@pytest.mark.parametrize("details", [False, True])
def test_format_verbosity_and_details_never_change_the_status(
    kind: str,
    moment: str,
    word: str,
    code: str,
    verbose: bool,  # noqa: FBT001
    details: bool,  # noqa: FBT001
) -> None:
    statuses = {
        answer_to(kind, moment, format=media, verbose=verbose, details=details).status
        for media in Format
    }
    assert statuses == {200 if code == "-" else 503}


GOLDEN_TEXT = [
    ("readyz", "ready", {"verbose": True}, "[+]boot ok\n[+]accepting ok\nok"),
    (
        "readyz",
        "loading",
        {"verbose": True},
        "[-]boot failed: reason withheld\n[+]accepting ok\nloading",
    ),
    ("livez", "loading", {"verbose": True}, "[+]loop ok\n[+]boot ok\nok"),
    (
        "livez",
        "failed",
        {"verbose": True},
        "[+]loop ok\n[-]boot failed: reason withheld\nboot.import_error",
    ),
    (
        "livez",
        "failed",
        {"verbose": True, "details": True},
        (
            "[+]loop ok: the event loop answers\n"
            "[-]boot failed: ImportError: no 'x'\nboot.import_error"
        ),
    ),
    (
        "readyz",
        "draining",
        {"verbose": True},
        "[+]boot ok\n[-]accepting failed: reason withheld\ndraining",
    ),
    (
        "readyz",
        "others load",
        {"verbose": True, "details": True},
        (
            "[+]boot ok: phase ready\n[+]accepting ok: new requests are served\n"
            "[-]fleet failed: worker 7 is still loading\nfleet.starting"
        ),
    ),
    (
        "readyz",
        "others load",
        {"verbose": True, "exclude": ("fleet",)},
        "[+]boot ok\n[+]accepting ok\n[+]fleet excluded: ok\nok",
    ),
    ("readyz", "others load", {"exclude": ("fleet",)}, "ok"),
    (
        "readyz",
        "loading",
        {"exclude": ("boot",)},
        "warning: check 'boot' cannot be excluded\nloading",
    ),
    (
        "readyz",
        "ready",
        {"exclude": ("<b>", "fleet")},
        "warning: unknown check to exclude: '<b>'\nwarning: unknown check to exclude: 'fleet'\nok",
    ),
    ("readyz", "ready", {"check": "boot"}, "ok"),
    ("readyz", "loading", {"check": "boot"}, "loading"),
    ("readyz", "failed", {"check": "boot"}, "boot.import_error"),
    ("readyz", "others load", {"check": "fleet"}, "fleet.starting"),
    (
        "readyz",
        "loading",
        {"check": "boot", "verbose": True},
        "[-]boot failed: reason withheld\nloading",
    ),
    ("livez", "loading", {"check": "loop"}, "ok"),
    ("readyz", "ready", {"check": "fleet"}, "unknown check; known: boot, accepting"),
    ("readyz", "others load", {"check": "x"}, "unknown check; known: boot, accepting, fleet"),
    ("livez", "ready", {"check": ""}, "unknown check; known: loop, boot"),
]


@pytest.mark.parametrize(("kind", "moment", "query", "text"), GOLDEN_TEXT)
def test_golden_texts(kind: str, moment: str, query: dict[str, Any], text: str) -> None:
    answer = answer_to(kind, moment, **query)
    assert answer.body.decode() == text
    assert dict(answer.headers)[b"content-length"] == b"%d" % len(text)


GOLDEN_JSON = [
    ("livez", "loading", {}, '{"status":"pass","phase":"loading"}'),
    (
        "livez",
        "failed",
        {},
        '{"status":"fail","phase":"failed","code":"boot.import_error","retry_after_s":1}',
    ),
    (
        "readyz",
        "ready",
        {"verbose": True},
        (
            '{"status":"pass","phase":"ready",'
            '"checks":{"boot":[{"status":"pass"}],"accepting":[{"status":"pass"}]}}'
        ),
    ),
    (
        "readyz",
        "failed",
        {"verbose": True},
        (
            '{"status":"fail","phase":"failed","code":"boot.import_error","retry_after_s":1,'
            '"checks":{"boot":[{"status":"fail","code":"boot.import_error"}],'
            '"accepting":[{"status":"fail","code":"boot.import_error"}]}}'
        ),
    ),
    (
        "readyz",
        "ready",
        {"exclude": ("x",)},
        '{"status":"warn","phase":"ready","notes":["unknown check to exclude: \'x\'"]}',
    ),
    (
        "readyz",
        "ready",
        {"check": "x"},
        '{"status":"fail","code":"check.unknown","known":["boot","accepting"]}',
    ),
    (
        "readyz",
        "loading",
        {"check": "boot"},
        '{"status":"fail","phase":"loading","code":"service.starting","retry_after_s":1}',
    ),
]


@pytest.mark.parametrize(("kind", "moment", "query", "text"), GOLDEN_JSON)
def test_golden_json(kind: str, moment: str, query: dict[str, Any], text: str) -> None:
    assert answer_to(kind, moment, format=Format.JSON, **query).body.decode() == text


def test_the_golden_json_with_details_follows_the_draft() -> None:
    snapshot = SNAPSHOTS["failed"]._replace(
        time="2026-01-02T03:04:05Z", release="abc123", boot_s=1.23456, details={"boot": {"a": 1}}
    )
    query = Query(kind=Kind.STARTUP, format=Format.HEALTH_JSON, details=True)
    assert json.loads(render(query, snapshot).body) == {
        "status": "fail",
        "phase": "failed",
        "code": "boot.import_error",
        "retry_after_s": 1,
        "checks": {
            "boot": [
                {
                    "status": "fail",
                    "code": "boot.import_error",
                    "componentType": "system",
                    "time": "2026-01-02T03:04:05Z",
                    "observedValue": 1.235,
                    "observedUnit": "s",
                    "output": "ImportError: no 'x'",
                }
            ]
        },
        "time": "2026-01-02T03:04:05Z",
        "releaseId": "abc123",
        "output": "ImportError: no 'x'",
        "boot": {"a": 1},
    }


@pytest.mark.parametrize("query", [{"check": "x"}, {"check": "x", "format": Format.JSON}])
def test_an_unknown_check_is_404_without_a_time_to_retry(query: dict[str, Any]) -> None:
    answer = answer_to("readyz", "loading", **query)
    assert answer.status == 404
    assert b"retry-after" not in dict(answer.headers)


def test_the_time_to_retry_is_the_configured_one() -> None:
    snapshot = SNAPSHOTS["loading"]._replace(retry_after_s=17)
    answer = render(Query(kind=Kind.READY), snapshot)
    assert dict(answer.headers)[b"retry-after"] == b"17"
    body = render(Query(kind=Kind.READY, format=Format.JSON), snapshot).body
    assert json.loads(body)["retry_after_s"] == 17


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("has_fleet", [False, True])
def test_the_names_of_checks_are_those_of_the_results(
    kind: Kind,
    has_fleet: bool,  # noqa: FBT001
) -> None:
    snapshot = SNAPSHOTS["ready"]._replace(has_fleet=has_fleet)
    names = tuple(result.name for result in results(kind, snapshot))
    assert names == check_names(kind, has_fleet=has_fleet)


words = st.text(max_size=200)
snapshots = st.builds(
    Snapshot,
    phase=st.sampled_from(Phase),
    was_ready=st.booleans(),
    failure=st.none() | st.builds(Failure, code=st.just("boot.x"), message=words, traceback=words),
    has_fleet=st.booleans(),
    fleet_code=st.sampled_from([None, "fleet.starting"]),
    fleet_output=st.none() | words,
    boot_s=st.floats(0, 1e9),
    retry_after_s=st.integers(1, 3600),
    release=st.none() | words,
    time=words,
    details=st.just({}),
)
queries = st.builds(
    Query,
    kind=st.sampled_from(Kind),
    check=st.none() | st.sampled_from(["boot", "fleet", "loop", "?"]) | words,
    format=st.sampled_from(Format),
    verbose=st.booleans(),
    exclude=st.lists(st.sampled_from(["boot", "fleet", "accepting"]) | words, max_size=4).map(
        tuple
    ),
    warnings=st.just(()),
    details=st.booleans(),
)


@given(query=queries, snapshot=snapshots)
def test_any_query_at_any_moment_has_a_whole_consistent_answer(
    query: Query, snapshot: Snapshot
) -> None:
    answer = render(query, snapshot)
    headers = dict(answer.headers)
    assert answer.status in {200, 404, 503}
    assert headers[b"content-length"] == b"%d" % len(answer.body)
    assert headers[b"cache-control"] == b"no-store"
    assert (b"retry-after" in headers) is (answer.status == 503)
    text = answer.body.decode()
    if query.format is not Format.TEXT:
        assert json.loads(text)["status"] in (
            {"pass", "warn"} if answer.status == 200 else {"fail"}
        )
    if query.check is None:
        passed = judge(query.kind, snapshot, exclude=query.exclude).passed
        assert (answer.status == 200) is passed


@given(query=queries, snapshot=snapshots, secret=st.uuids().map(str))
def test_no_reason_leaks_to_the_unauthorised(query: Query, snapshot: Snapshot, secret: str) -> None:
    failure = Failure(code="boot.x", message=f"a {secret} b", traceback=f"at {secret}")
    knowing = snapshot._replace(
        failure=failure, fleet_output=secret, release=secret, time=secret, details={"x": secret}
    )
    assert secret not in render(query._replace(details=False), knowing).body.decode()


@pytest.mark.parametrize("media", Format)
def test_a_reason_with_undecodable_bytes_is_still_answered(media: Format) -> None:
    broken = FAILURE._replace(message="cannot open '\udcff\ud800'")
    snapshot = SNAPSHOTS["failed"]._replace(failure=broken)
    query = Query(kind=Kind.LIVE, format=media, verbose=True, details=True)
    body = render(query, snapshot).body.decode()
    assert "cannot open" in body
    assert "\\udcff" in body


def test_warnings_of_the_query_are_in_both_formats() -> None:
    query = parse_query(Kind.READY, query_string=b"format=xml")
    assert render(query, SNAPSHOTS["ready"]).body == (
        b"warning: unknown format 'xml' (known: json, text)\nok"
    )
    query = query._replace(format=Format.JSON)
    body = json.loads(render(query, SNAPSHOTS["ready"]).body)
    assert body["status"] == "warn"
    assert body["notes"] == ["unknown format 'xml' (known: json, text)"]
