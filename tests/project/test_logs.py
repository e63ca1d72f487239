"""Logs: one JSON object a line for machines, text for people, and no server's line lost."""

import io
import json
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.logging import AccessFormatter

from project import logs
from project.context import RequestContext, current_request
from project.env import Env
from project.logs import JsonFormatter, TextFormatter

LOGGERS = ("", "uvicorn", "uvicorn.error", "uvicorn.access", "gunicorn.error")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _loggers_as_before() -> Iterator[None]:
    saved = [
        (logger, list(logger.handlers), logger.level, logger.propagate)
        for logger in map(logging.getLogger, LOGGERS)
    ]
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    yield
    sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
    logging.captureWarnings(capture=False)
    for logger, handlers, level, propagate in saved:
        logger.handlers, logger.level, logger.propagate = handlers, level, propagate


def env(**environ: str) -> Env:
    return Env.read({"ENV_FILE": "/dev/null", "SECRET_KEY": "x", "DEBUG": "1", **environ})


def record(message: str, *arguments: object, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("a.logger", logging.WARNING, __file__, 1, message, arguments, None)
    vars(made).update(extra)
    return made


def test_a_line_holds_message_level_time_logger_and_fields() -> None:
    formatter = JsonFormatter(static={"release": "f00"})

    line = json.loads(formatter.format(record("saw %d", 7, user_id=3, where=object)))

    assert line.pop("timestamp").endswith("+00:00")
    assert line == {
        "message": "saw 7", "level": "warning", "logger": "a.logger", "release": "f00",
        "worker": os.getpid(), "user_id": 3, "where": str(object),
    }  # fmt: skip


def test_a_field_of_the_caller_replaces_none_of_ours() -> None:
    line = json.loads(JsonFormatter().format(record("truth", level="lie", logger="lie")))

    assert (line["message"], line["level"], line["logger"]) == ("truth", "warning", "a.logger")


def test_an_exception_stands_whole_in_one_line() -> None:
    made = record("failed")
    with pytest.raises(ValueError, match="안녕") as caught:
        int("안녕\nsecond line")
    made.exc_info = (caught.type, caught.value, caught.tb)

    text = JsonFormatter().format(made)

    assert "\n" not in text
    assert "안녕" in text
    assert "ValueError: invalid literal" in json.loads(text)["exception"]
    assert "Traceback" in TextFormatter().format(made)


@given(st.text(st.characters()), st.text(st.characters()))
def test_any_text_gives_one_line_that_a_utf8_stream_takes(message: str, value: str) -> None:
    text = JsonFormatter().format(record("%s", message, field=value))

    assert len(text.encode().split(b"\n")) == 1
    line = json.loads(text)
    assert set(line) == {"message", "level", "timestamp", "logger", "worker", "field"}


def test_machines_get_json_and_people_get_text() -> None:
    for stream, log_format, is_json in (
        (io.StringIO(), "auto", True),
        (Terminal(), "auto", False),
        (Terminal(), "json", True),
        (io.StringIO(), "text", False),
    ):
        logs.configure(env(LOG_FORMAT=log_format), stream=stream)
        logging.getLogger("somebody").warning("hello", extra={"count": 2})

        assert stream.getvalue().startswith("{") is is_json
        assert "hello" in stream.getvalue()
        assert "count" in stream.getvalue()


def test_the_level_is_that_of_the_environment() -> None:
    stream = io.StringIO()

    logs.configure(env(LOG_LEVEL="warning"), stream=stream)
    logging.getLogger("somebody").info("quiet")
    logging.getLogger("somebody").warning("loud")

    assert "quiet" not in stream.getvalue()
    assert "loud" in stream.getvalue()


@contextmanager
def servers_own_handler(name: str) -> Iterator[io.StringIO]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.getLogger(name).addHandler(handler)
    yield stream


@pytest.mark.parametrize("name", ["uvicorn", "uvicorn.error", "gunicorn.error"])
def test_a_servers_line_comes_once_and_in_our_form(name: str) -> None:
    stream = io.StringIO()
    with servers_own_handler(name) as former:
        logs.configure(env(), stream=stream)
        logs.configure(env(), stream=stream)
        logging.getLogger(name).error("Application startup complete.")

    assert former.getvalue() == ""
    assert [json.loads(line)["logger"] for line in stream.getvalue().splitlines()] == [name]


def test_two_loggers_that_share_one_list_of_handlers_both_stay_heard() -> None:
    stream = io.StringIO()
    logging.getLogger("uvicorn.error").handlers = logging.getLogger("gunicorn.error").handlers

    logs.configure(env(), stream=stream)
    logging.getLogger("uvicorn.error").error("one")
    logging.getLogger("gunicorn.error").error("two")

    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == [
        "one",
        "two",
    ]


def test_a_log_file_that_somebody_asked_for_stays(tmp_path) -> None:
    file = tmp_path / "error.log"
    handler = logging.FileHandler(file)
    logger = logging.getLogger("gunicorn.error")
    logger.addHandler(handler)

    logs.configure(env(), stream=io.StringIO())
    logger.error("kept")
    handler.close()

    assert file.read_text() == "kept\n"


def test_uvicorns_own_access_lines_are_not_written_beside_ours() -> None:
    stream, handler = io.StringIO(), logging.StreamHandler(io.StringIO())
    handler.setFormatter(AccessFormatter())
    access = logging.getLogger("uvicorn.access")
    access.handlers, access.propagate = [handler], False

    logs.configure(env(), stream=stream)
    access.info('%s - "%s %s HTTP/%s" %d', "127.0.0.1:1", "GET", "/livez", "1.1", 200)

    assert (stream.getvalue(), handler.stream.getvalue()) == ("", "")


def test_access_lines_of_a_server_that_was_told_to_write_them_take_our_form() -> None:
    written = io.StringIO()
    access = logging.getLogger("uvicorn.access")
    access.handlers, access.propagate = [logging.StreamHandler(written)], False
    access.setLevel(logging.INFO)

    logs.configure(env(), stream=io.StringIO())
    access.info('%s - "%s %s HTTP/%s" %d', "127.0.0.1:1", "GET", "/x?token=abc", "1.1", 200)

    assert json.loads(written.getvalue())["message"] == (
        '127.0.0.1:1 - "GET /x?token=[redacted] HTTP/1.1" 200'
    )


def test_access_lines_stay_off_where_the_server_has_them_off() -> None:
    stream = io.StringIO()
    access = logging.getLogger("uvicorn.access")
    access.handlers, access.propagate = [], False

    logs.configure(env(), stream=stream)

    assert not access.hasHandlers()


def test_python_warnings_become_lines() -> None:
    stream = io.StringIO()
    logs.configure(env(), stream=stream)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("old thing", UserWarning, stacklevel=1)
        logging.captureWarnings(capture=False)

    assert "old thing" in json.loads(stream.getvalue())["message"]


@pytest.fixture
def request_context() -> Iterator[RequestContext]:
    context = RequestContext("id-of-the-request")
    token = current_request.set(context)
    yield context
    current_request.reset(token)


def test_a_line_of_a_request_carries_its_id_and_its_trace(
    request_context: RequestContext,
) -> None:
    before = json.loads(JsonFormatter().format(record("x", request_id="lie")))
    request_context.trace_id = 0x0AF7651916CD43DD8448EB211C80319C
    traced = json.loads(JsonFormatter().format(record("x")))

    assert before["request_id"] == traced["request_id"] == "id-of-the-request"
    assert "trace_id" not in before
    assert traced["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    assert "request_id='id-of-the-request'" in TextFormatter().format(record("x"))


def test_a_line_outside_of_requests_carries_none() -> None:
    assert "request_id" not in json.loads(JsonFormatter().format(record("x")))


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_no_secret_is_in_any_part_of_a_line(log_format: str) -> None:
    stream, token = io.StringIO(), "t0ken-of-thirty-two-characters-or-more"
    known = {"HEALTH_TOKEN": token, "DATABASE_URL": "postgresql://me:pa55-phrase@db/x"}
    logs.configure(env(LOG_FORMAT=log_format, **known), stream=stream)
    logger = logging.getLogger("somebody")

    logger.warning("asked for /x?token=%s with %s", "sekret-1", token)
    logger.warning("fields", extra={"password": "sekret-2", "headers": {"cookie": "sekret-3"}})
    try:
        int("postgresql://me:sekret-4@db and pa55-phrase")
    except ValueError:
        logger.exception("failed")

    text = stream.getvalue()
    assert "sekret" not in text
    assert token not in text
    assert "pa55-phrase" not in text
    assert text.count("[redacted]") >= 6


def test_an_exception_that_nobody_catches_is_a_line_like_all_others() -> None:
    stream = io.StringIO()
    logs.configure(env(), stream=stream)

    def fail() -> None:
        raise ValueError("nobody catches this")

    thread = threading.Thread(target=fail, name="somebodys thread")
    thread.start()
    thread.join()
    try:
        fail()
    except ValueError as error:
        sys.excepthook(type(error), error, error.__traceback__)

    class Broken:
        def __del__(self) -> None:
            fail()

    Broken()

    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["logger"] for line in lines] == ["python"] * 3
    assert [line["level"] for line in lines] == ["error", "critical", "error"]
    assert all("nobody catches this" in line["exception"] for line in lines)
    assert lines[0]["thread_name"] == "somebodys thread"


def test_who_presses_ctrl_c_sees_what_python_shows(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    logs.configure(env(), stream=stream)

    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)

    assert stream.getvalue() == ""
    assert "KeyboardInterrupt" in capsys.readouterr().err


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_a_line_whose_arguments_do_not_fit_is_written_without_them(
    log_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = io.StringIO()
    logs.configure(env(LOG_FORMAT=log_format), stream=stream)

    logging.getLogger("somebody").error("attempts: %d", "sekret-token", extra={"r": float("nan")})

    assert "attempts: %d (its arguments do not fit: TypeError)" in stream.getvalue()
    assert "sekret" not in stream.getvalue() + capsys.readouterr().err
    assert "NaN" not in stream.getvalue()
