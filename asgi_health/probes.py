"""From a phase and results of checks to status, headers and body.

Pure; no clock, no state, no I/O. Formats: plain text by default; JSON in the shape of draft-
inadarei-api-health-check-06 when asked for.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

from asgi_health.phase import Failure, Phase
from asgi_health.query import Format, Kind, Query, printable
from asgi_health.types import Headers

__all__ = [
    "DRAINING_CODE",
    "Answer",
    "Result",
    "Snapshot",
    "Verdict",
    "check_names",
    "judge",
    "render",
]

DRAINING_CODE = "service.draining"

_NO_STORE = (b"cache-control", b"no-store")


class Result(NamedTuple):
    """The last result of one check.

    Args:
        name: unique within a question.
        passed: whether the check holds.
        code: the public reason when it does not, one word.
        output: the reason in words, for the authorised only.
        component_type: `component`, `datastore` or `system`, as in the draft.
        observed_value: what was measured, in `observed_unit`.
        excludable: whether `?exclude=` may leave it out; what readiness stands on may not be left
            out.
    """

    name: str
    passed: bool
    code: str | None = None
    output: str | None = None
    component_type: str = "component"
    observed_value: float | str | None = None
    observed_unit: str | None = None
    excludable: bool = True


class Snapshot(NamedTuple):
    """All that an answer may be made of, read at one moment.

    Args:
        phase: of this process.
        was_ready: whether the boot has finished once.
        failure: of the boot, if it failed.
        fleet_code: why the instance is not ready although this process is; None when it is.
        fleet_output: the same in words.
        boot_s: seconds that the boot took, or takes so far.
        retry_after_s: for each 503.
        time: of the snapshot, ISO 8601 with offset.
        release: what is running.
        details: more for the authorised, ready for JSON: boot report, workers, versions.
    """

    phase: Phase
    was_ready: bool = False
    failure: Failure | None = None
    has_fleet: bool = False
    fleet_code: str | None = None
    fleet_output: str | None = None
    boot_s: float = 0.0
    retry_after_s: int = 1
    time: str = ""
    release: str | None = None
    details: Mapping[str, Any] = MappingProxyType({})


class Answer(NamedTuple):
    """A whole answer.

    `headers` lack Date, Server and Connection, which belong to the server.
    """

    status: int
    headers: Headers
    body: bytes


class Verdict(NamedTuple):
    """The answer in one word: `code` is None when the answer is yes."""

    word: str
    code: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the status is 200."""
        return self.code is None


_UNSETTLED_CODE = {
    Phase.STARTING: "service.starting",
    Phase.LOADING: "service.starting",
    Phase.DRAINING: DRAINING_CODE,
    Phase.STOPPED: DRAINING_CODE,
}


_ACCEPTING = {
    Phase.STARTING: "new requests are held",
    Phase.LOADING: "new requests are held",
    Phase.READY: "new requests are served",
}


def check_names(kind: Kind, *, has_fleet: bool) -> tuple[str, ...]:
    """The names of the checks behind a question."""
    names = {
        Kind.LIVE: ("loop", "boot"),
        Kind.READY: ("boot", "accepting"),
        Kind.STARTUP: ("boot",),
    }[kind]
    return (*names, "fleet") if has_fleet and kind is Kind.READY else names


def results(kind: Kind, snapshot: Snapshot) -> tuple[Result, ...]:
    """The checks behind a question, with their results now."""
    made = {
        "loop": _loop_result,
        "boot": _liveness_of_boot if kind is Kind.LIVE else _boot_result,
        "accepting": _accepting_result,
        "fleet": _fleet_result,
    }
    return tuple(made[name](snapshot) for name in check_names(kind, has_fleet=snapshot.has_fleet))


def judge(kind: Kind, snapshot: Snapshot, *, exclude: tuple[str, ...] = ()) -> Verdict:
    """The answer to a question, leaving out checks that may be left out."""
    for result in results(kind, snapshot):
        if not result.passed and not (result.excludable and result.name in exclude):
            return _verdict(result, snapshot)
    return Verdict(word="ok")


def _verdict(result: Result, snapshot: Snapshot) -> Verdict:
    code = result.code or f"check.{result.name}"
    is_phase = code == _UNSETTLED_CODE.get(snapshot.phase)
    return Verdict(word=snapshot.phase.value if is_phase else code, code=code)


def _loop_result(_snapshot: Snapshot) -> Result:
    return Result(
        name="loop",
        passed=True,
        component_type="system",
        output="the event loop answers",
        excludable=False,
    )


def _liveness_of_boot(snapshot: Snapshot) -> Result:
    """While it loads, a process is alive; only a failed boot makes it not so."""
    return (
        _boot_result(snapshot)
        if snapshot.phase is Phase.FAILED
        else _boot_result(snapshot, passed=True)
    )


def _boot_result(snapshot: Snapshot, *, passed: bool | None = None) -> Result:
    passed = snapshot.was_ready if passed is None else passed
    failure = snapshot.failure
    return Result(
        name="boot",
        passed=passed,
        code=None if passed else (failure.code if failure else _UNSETTLED_CODE.get(snapshot.phase)),
        output=failure.message if failure else f"phase {snapshot.phase.value}",
        component_type="system",
        observed_value=round(snapshot.boot_s, 3),
        observed_unit="s",
        excludable=False,
    )


def _accepting_result(snapshot: Snapshot) -> Result:
    output = _ACCEPTING.get(snapshot.phase)
    failure = snapshot.failure
    return Result(
        name="accepting",
        passed=output is not None,
        code=None if output else failure.code if failure else DRAINING_CODE,
        output=output or ("nothing can be served" if failure else "the process was told to stop"),
        component_type="system",
        excludable=False,
    )


def _fleet_result(snapshot: Snapshot) -> Result:
    return Result(
        name="fleet",
        passed=snapshot.fleet_code is None,
        code=snapshot.fleet_code,
        output=snapshot.fleet_output or "all workers are ready",
        component_type="system",
    )


def render(query: Query, snapshot: Snapshot) -> Answer:
    """The whole answer to a probe."""
    if query.check is not None:
        return _render_check(query, snapshot)
    verdict = judge(query.kind, snapshot, exclude=query.exclude)
    if (
        query.format is Format.TEXT
        and not query.verbose
        and not query.exclude
        and not query.warnings
    ):
        return _terse(verdict.passed, verdict.word, snapshot.retry_after_s)
    warnings = _warnings(query, snapshot)
    shown = results(query.kind, snapshot)
    if query.format is Format.TEXT:
        body = _text(query, shown, verdict, warnings)
    else:
        body = _json(query, snapshot, shown, verdict, warnings)
    return _answer(200 if verdict.passed else 503, query.format, body, snapshot.retry_after_s)


def _render_check(query: Query, snapshot: Snapshot) -> Answer:
    shown = results(query.kind, snapshot)
    known = {result.name: result for result in shown}
    if query.check not in known:
        names = ", ".join(known)
        if query.format is Format.TEXT:
            body = f"unknown check; known: {names}".encode()
        else:
            body = _dump({"status": "fail", "code": "check.unknown", "known": list(known)})
        return _answer(404, query.format, body, None)
    result = known[query.check]
    verdict = Verdict(word="ok") if result.passed else _verdict(result, snapshot)
    if query.format is Format.TEXT:
        body = (
            _text(query, (result,), verdict, query.warnings)
            if query.verbose
            else verdict.word.encode()
        )
    else:
        body = _json(query, snapshot, (result,), verdict, query.warnings)
    return _answer(200 if verdict.passed else 503, query.format, body, snapshot.retry_after_s)


def _warnings(query: Query, snapshot: Snapshot) -> tuple[str, ...]:
    excludable = {result.name: result.excludable for result in results(query.kind, snapshot)}
    found = list(query.warnings)
    for name in query.exclude:
        if name not in excludable:
            found.append(f"unknown check to exclude: {printable(name)}")
        elif not excludable[name]:
            found.append(f"check {name!r} cannot be excluded")
    return tuple(found)


def _text(
    query: Query, shown: tuple[Result, ...], verdict: Verdict, warnings: tuple[str, ...]
) -> bytes:
    lines = []
    if query.verbose:
        for result in shown:
            if result.name in query.exclude and result.excludable:
                lines.append(f"[+]{result.name} excluded: ok")
            else:
                lines.append(_line(result, details=query.details))
    lines += [f"warning: {warning}" for warning in warnings]
    lines.append(verdict.word)
    return "\n".join(lines).encode("utf-8", "backslashreplace")


def _line(result: Result, *, details: bool) -> str:
    if result.passed:
        return f"[+]{result.name} ok" + (f": {result.output}" if details and result.output else "")
    return f"[-]{result.name} failed: {result.output if details else 'reason withheld'}"


def _json(
    query: Query,
    snapshot: Snapshot,
    shown: tuple[Result, ...],
    verdict: Verdict,
    warnings: tuple[str, ...],
) -> bytes:
    status = "fail" if not verdict.passed else "warn" if warnings else "pass"
    body: dict[str, Any] = {"status": status, "phase": snapshot.phase.value}
    if not verdict.passed:
        body |= {"code": verdict.code, "retry_after_s": snapshot.retry_after_s}
    if warnings:
        body["notes"] = list(warnings)
    if query.verbose or query.details:
        body["checks"] = {result.name: [_check_json(result, query, snapshot)] for result in shown}
    if query.details:
        body |= {"time": snapshot.time, "releaseId": snapshot.release or ""}
        if snapshot.failure is not None:
            body["output"] = snapshot.failure.message
        body |= snapshot.details
    return _dump(body)


def _check_json(result: Result, query: Query, snapshot: Snapshot) -> dict[str, Any]:
    entry: dict[str, Any] = {"status": "pass" if result.passed else "fail"}
    if result.code is not None:
        entry["code"] = result.code
    if query.details:
        entry |= {"componentType": result.component_type, "time": snapshot.time}
        if result.observed_value is not None:
            entry |= {"observedValue": result.observed_value, "observedUnit": result.observed_unit}
        if result.output is not None:
            entry["output"] = result.output
    return entry


def _dump(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode(
        "utf-8", "backslashreplace"
    )


@lru_cache(maxsize=128)
def _terse(passed: bool, word: str, retry_after_s: int) -> Answer:  # noqa: FBT001 - a cache key
    return _answer(200 if passed else 503, Format.TEXT, word.encode(), retry_after_s)


def _answer(status: int, media: Format, body: bytes, retry_after_s: int | None) -> Answer:
    headers: Headers = (
        (b"content-type", media.value.encode("ascii")),
        (b"content-length", b"%d" % len(body)),
        _NO_STORE,
    )
    if status == 503 and retry_after_s is not None:
        headers += ((b"retry-after", b"%d" % retry_after_s),)
    return Answer(status=status, headers=headers, body=body)
