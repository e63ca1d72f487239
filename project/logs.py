"""Logs by the standard library: one JSON object a line, or text for people on a terminal.

Set up before Django is imported, so that a failed boot is logged like everything else. The console
handlers of Uvicorn and Gunicorn are replaced; their levels, and log files that somebody asked for,
stay as they are. Lines of a request carry its id, and no line carries a secret.
"""

import json
import logging
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, TextIO

from project.context import current_request
from project.env import Env
from project.flood import Flood
from project.redaction import Redactor

__all__ = ["JsonFormatter", "TextFormatter", "configure", "gunicorn_config"]

_LINES_OF_A_KIND_PER_S: Final = 20
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False)
_SERVER_LOGGERS: Final = ("uvicorn", "uvicorn.error", "gunicorn.error")
_STANDARD: Final = frozenset(
    (*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "color_message")
)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `message`, `level`, `timestamp`, `logger`, `worker`, extra fields.

    A line of a request has its `request_id` and, with a trace, its `trace_id`. Fields that the
    caller gave with `extra` stand at the top level; none of them replaces one of ours. What JSON
    cannot express is written as its `str`.

    Args:
        redactor: what every text passes.
        static: fields of every line.
    """

    def __init__(
        self, redactor: Redactor | None = None, *, static: Mapping[str, str] | None = None
    ) -> None:
        super().__init__()
        self._redactor = redactor or Redactor()
        self._static = dict(static or {})

    def format(self, record: logging.LogRecord) -> str:
        redactor = self._redactor
        fields: dict[str, object] = {
            "message": redactor.text(_message(record)),
            "level": record.levelname.lower(),
            "timestamp": _moment(record).isoformat(timespec="milliseconds"),
            "logger": record.name,
            **_of_request(),
            "worker": record.process,
            **self._static,
        }
        for name, value in _extra(record).items():
            if name not in fields:
                fields[name] = redactor.field(name, value)
        if trace := _trace(self, record):
            fields["exception"] = redactor.text(trace)
        line = _ENCODER.encode(fields)
        # A lone surrogate (undecodable bytes of a request) would make the stream raise.
        return line.encode("utf-8", "backslashreplace").decode()


class TextFormatter(logging.Formatter):
    """Time, level, logger and message, then the request, the extra fields and the traceback."""

    def __init__(self, redactor: Redactor | None = None) -> None:
        super().__init__()
        self._redactor = redactor or Redactor()

    def format(self, record: logging.LogRecord) -> str:
        redactor = self._redactor
        # UTC: the local zone changes while Django's settings load.
        moment = _moment(record).strftime("%H:%M:%SZ")
        line = f"{moment} {record.levelname:<7} {record.name}: {redactor.text(_message(record))}"
        fields = _of_request() | {
            name: redactor.field(name, value) for name, value in _extra(record).items()
        }
        extra = " ".join(f"{name}={value!r}" for name, value in fields.items())
        parts = (f"{line}  {extra}" if extra else line, redactor.text(_trace(self, record)))
        text = "\n".join(part for part in parts if part)
        return text.encode("utf-8", "backslashreplace").decode()


def configure(env: Env, *, stream: TextIO | None = None) -> None:
    """Send every logger's messages to `stream` (None: standard output). May be called again."""
    stream = stream or sys.stdout
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_formatter(env, terminal=stream.isatty()))
    handler.addFilter(Flood(lines=_LINES_OF_A_KIND_PER_S))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(env.log_level.upper())
    for name in _SERVER_LOGGERS:
        logger = logging.getLogger(name)
        # A new list: Uvicorn's workers for Gunicorn share one list between two loggers.
        logger.handlers = [kept for kept in logger.handlers if not _is_console(kept)]
        logger.handlers.append(handler)
        logger.propagate = False
    access = logging.getLogger("uvicorn.access")
    # Uvicorn's own lines, probes among them, say again what ours do. Somebody's file stays.
    access.handlers = [kept for kept in access.handlers if not _is_default_access(kept)]
    for kept in access.handlers:
        kept.setFormatter(handler.formatter)
    access.propagate = False
    # Of what a client did wrong the access line tells all; of what we did, the traceback is here.
    logging.getLogger("django.request").setLevel(logging.ERROR)
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread
    sys.unraisablehook = _log_unraisable


def gunicorn_config(env: Env) -> dict[str, object]:
    """Return Gunicorn's `logconfig_dict`: so that its master writes the same lines."""
    formatter = _formatter(env, terminal=sys.stdout.isatty())
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"ours": {"()": lambda: formatter}},
        "handlers": {
            "ours": {
                "class": "logging.StreamHandler",
                "stream": "ext://sys.stdout",
                "formatter": "ours",
            }
        },
        "root": {"level": env.log_level.upper(), "handlers": ["ours"]},
        "loggers": {"gunicorn.error": {"handlers": ["ours"], "propagate": False}},
    }


def _formatter(env: Env, *, terminal: bool) -> logging.Formatter:
    redactor = Redactor(env.secrets)
    if env.log_format == "text" or (env.log_format == "auto" and terminal):
        return TextFormatter(redactor)
    named = {"release": env.release, "instance": env.instance}
    static = {name: value for name, value in named.items() if value}
    return JsonFormatter(redactor, static=static)


def _of_request() -> dict[str, object]:
    """What every line of a request says; nothing outside of requests."""
    request = current_request.get()
    if request is None:
        return {}
    if request.trace_id is None:
        return {"request_id": request.request_id}
    return {"request_id": request.request_id, "trace_id": f"{request.trace_id:032x}"}


def _message(record: logging.LogRecord) -> str:
    """With its arguments; a line whose arguments do not fit must not go to stderr unredacted."""
    try:
        return record.getMessage()
    except Exception as error:  # noqa: BLE001 - whatever the arguments' own methods raise
        return f"{record.msg} (its arguments do not fit: {type(error).__name__})"


def _moment(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = []
    if record.exc_info:
        parts.append(formatter.formatException(record.exc_info))
    elif record.exc_text:
        parts.append(record.exc_text)
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    return "\n".join(parts)


def _is_default_access(handler: logging.Handler) -> bool:
    """Whether Uvicorn has put it there by itself; under Gunicorn somebody has asked for it."""
    return type(handler.formatter).__name__ == "AccessFormatter"


def _is_console(handler: logging.Handler) -> bool:
    return type(handler) is logging.StreamHandler


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if not issubclass(kind, Exception):  # somebody presses Ctrl+C
        sys.__excepthook__(kind, error, trace)
        return
    logging.getLogger("python").critical(
        "uncaught: %s", kind.__name__, exc_info=(kind, error, trace)
    )


def _log_uncaught_in_thread(found: threading.ExceptHookArgs) -> None:
    if found.exc_value is None or found.exc_type is SystemExit:
        return
    name = None if found.thread is None else found.thread.name
    logging.getLogger("python").error(
        "uncaught in a thread: %s",
        found.exc_type.__name__,
        exc_info=(found.exc_type, found.exc_value, found.exc_traceback),
        extra={"thread_name": name},
    )


def _log_unraisable(found: Any) -> None:
    kind = found.exc_type.__name__
    where = found.err_msg or "exception ignored in"
    logging.getLogger("python").error(
        "%s %r: %s",
        where,
        found.object,
        kind,
        exc_info=(found.exc_type, found.exc_value, found.exc_traceback),
    )
