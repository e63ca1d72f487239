"""Logs by the standard library: one JSON object a line, or text for people on a terminal.

Set up before Django is imported, so that a failed boot is logged like everything else. The console
handlers of Uvicorn and Gunicorn are replaced; their levels, and log files that somebody asked for,
stay as they are.
"""

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, TextIO

from project.env import Env

__all__ = ["JsonFormatter", "TextFormatter", "configure", "gunicorn_config"]

_SERVER_LOGGERS: Final = ("uvicorn", "uvicorn.error", "gunicorn.error")
_STANDARD: Final = frozenset(
    (*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "color_message")
)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `message`, `level`, `timestamp`, `logger`, `static`, extra fields.

    Fields that the caller gave with `extra` stand at the top level; none of them replaces one of
    ours. What JSON cannot express is written as its `str`.
    """

    def __init__(self, *, static: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self._static = dict(static or {})

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {
            "message": record.getMessage(),
            "level": record.levelname.lower(),
            "timestamp": _moment(record).isoformat(timespec="milliseconds"),
            "logger": record.name,
            **self._static,
        }
        for name, value in _extra(record).items():
            fields.setdefault(name, value)
        if trace := _trace(self, record):
            fields["exception"] = trace
        line = json.dumps(fields, ensure_ascii=False, default=str)
        # A lone surrogate (undecodable bytes of a request) would make the stream raise.
        return line.encode("utf-8", "backslashreplace").decode()


class TextFormatter(logging.Formatter):
    """Time, level, logger and message, then the extra fields and the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        # UTC: the local zone changes while Django's settings load.
        moment = _moment(record).strftime("%H:%M:%SZ")
        line = f"{moment} {record.levelname:<7} {record.name}: {record.getMessage()}"
        extra = " ".join(f"{name}={value!r}" for name, value in _extra(record).items())
        parts = (f"{line}  {extra}" if extra else line, _trace(self, record))
        text = "\n".join(part for part in parts if part)
        return text.encode("utf-8", "backslashreplace").decode()


def configure(env: Env, *, stream: TextIO | None = None) -> None:
    """Send every logger's messages to `stream` (None: standard output). May be called again."""
    stream = stream or sys.stdout
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_formatter(env, terminal=stream.isatty()))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(env.log_level.upper())
    for name in _SERVER_LOGGERS:
        logger = logging.getLogger(name)
        # A new list: Uvicorn's workers for Gunicorn share one list between two loggers.
        logger.handlers = [kept for kept in logger.handlers if not _is_console(kept)]
        logger.handlers.append(handler)
        logger.propagate = False
    for access in logging.getLogger("uvicorn.access").handlers:
        # Still on only where the server was told so; its lines take our form.
        access.setFormatter(handler.formatter)
    logging.captureWarnings(capture=True)


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
    if env.log_format == "text" or (env.log_format == "auto" and terminal):
        return TextFormatter()
    named = {"release": env.release, "instance": env.instance}
    return JsonFormatter(static={name: value for name, value in named.items() if value})


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


def _is_console(handler: logging.Handler) -> bool:
    return type(handler) is logging.StreamHandler
