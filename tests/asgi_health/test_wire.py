"""Requests as bytes: what is a probe, where it ends, and what is left to a server to decide."""

from email.utils import parsedate_to_datetime

import pytest

from asgi_health.fleet.wire import (
    HEAD_MAX_BYTES,
    Head,
    answer_bytes,
    has_whole_head,
    path_of,
    read_head,
    scope_of,
)

NO_PROBE = ("", "")


def request(*fields: bytes, line: bytes = b"GET /livez HTTP/1.1", body: bytes = b"") -> bytes:
    return b"\r\n".join([line, *fields, b"", b""]) + body


def head_of(*fields: bytes, line: bytes = b"GET /livez HTTP/1.1") -> Head:
    head = read_head(request(*fields, line=line))
    assert head is not None
    return head


# The first line.


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/livez", "/livez"),
        (b"/livez/", "/livez/"),
        (b"//livez", "//livez"),
        (b"/livez?", "/livez"),
        (b"/livez?verbose&a=/b", "/livez"),
        (b"/livez#part", "/livez"),
        (b"/livez#a?b", "/livez"),
        (b"/livez?a#b", "/livez"),
        (b"/%6Civez", "/livez"),
        (b"/livez%3Fa", "/livez?a"),
        (b"/livez%23a", "/livez#a"),
        (b"/%2e%2e/livez", "/../livez"),
        (b"/a/../livez", "/a/../livez"),
        (b"/livez%", "/livez%"),
        (b"/livez%zz", "/livez%zz"),
        (b"/livez%00", "/livez\0"),
        (b"/caf%C3%A9", "/caf\u00e9"),
        (b"/%ff", "/\ufffd"),
        (b"http://host/livez", "/livez"),
        (b"HTTP://HOST:8000/livez?a", "/livez"),
        (b"https://[::1]:8000/livez", "/livez"),
        (b"http://127.0.0.1/http://b/livez", "/http://b/livez"),
    ],
)
def test_the_path_is_what_a_server_would_call_it(target: bytes, path: str) -> None:
    seen = b"GET " + target + b" HTTP/1.1\r\n"
    assert path_of(seen) == ("GET", path)
    head = read_head(seen + b"\r\n")
    assert head is not None
    assert scope_of(head, client=None)["path"] == path


@pytest.mark.parametrize(
    "target",
    [
        b"livez",
        b"*",
        b"",
        b"host:80",
        b"ftp://host/livez",
        b"http:/livez",
        b"http:///livez",
        b"http://host",
        b"http://host?/livez",
        b"http://host#/livez",
        b"http://user@host/livez",
        b"http://host:/livez",
        b"http://host:65536/livez",
        b"http://host:99999/livez",
        b"http://ho%73t/livez",
        b"http://ho_st/livez",
        b"/livez\x00",
        b"/livez\x7f",
        b"/livez\xff",
        b"/livez\t",
    ],
)
def test_a_target_that_a_server_might_refuse_or_read_otherwise_is_left_to_it(
    target: bytes,
) -> None:
    assert path_of(b"GET " + target + b" HTTP/1.1\r\n") == NO_PROBE
    assert read_head(b"GET " + target + b" HTTP/1.1\r\n\r\n") is None


@pytest.mark.parametrize(
    "line",
    [
        b"GET /livez",
        b"GET /livez ",
        b"GET /livez HTTP/0.9",
        b"GET /livez HTTP/1.2",
        b"GET /livez HTTP/1.10",
        b"GET /livez HTTP/2",
        b"GET /livez http/1.1",
        b"GET /livez HTTP/1.1 ",
        b"GET  /livez HTTP/1.1",
        b" GET /livez HTTP/1.1",
        b"GET\t/livez\tHTTP/1.1",
        b"GET /livez HTTP/1.1\r",
        b"GET /livez\rHTTP/1.1",
        b"G(T /livez HTTP/1.1",
        b"PRI * HTTP/2.0",
        b"\x16\x03\x01 a b",
    ],
)
def test_a_first_line_that_is_not_http_1_is_no_probe(line: bytes) -> None:
    assert path_of(line + b"\r\n") == NO_PROBE
    assert read_head(line + b"\r\n\r\n") is None


@pytest.mark.parametrize("method", ["get", "Get", "CONNECT", "PROPFIND", "X", "M-SEARCH"])
def test_a_method_that_a_server_might_refuse_is_no_probe(method: str) -> None:
    assert path_of(f"{method} /livez HTTP/1.1\r\n".encode()) == NO_PROBE


METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_methods_and_versions_of_http_1_are_known(method: str, version: str) -> None:
    line = f"{method} /livez HTTP/{version}".encode()
    assert path_of(line + b"\r\n") == (method, "/livez")
    assert (head_of(line=line).method, head_of(line=line).version) == (method, version)


@pytest.mark.parametrize("cut", range(21))
def test_a_first_line_that_is_not_whole_is_waited_for(cut: int) -> None:
    line = b"GET /livez HTTP/1.1\r\n"
    assert len(line) == 21
    assert path_of(line[:cut]) is None
    assert read_head(line[:cut]) is None


def test_a_line_that_ends_without_carriage_return_is_no_probe() -> None:
    assert path_of(b"GET /livez HTTP/1.1\nHost: a\r\n") == NO_PROBE


@pytest.mark.parametrize("skipped", [b"\r\n", b"\r\n\r\n", b"\n", b"\r\n\n\r\n"])
def test_empty_lines_before_a_request_are_skipped_and_counted(skipped: bytes) -> None:
    seen = skipped + request(b"Host: a")
    assert path_of(skipped) is None
    assert path_of(seen) == ("GET", "/livez")
    head = read_head(seen)
    assert head is not None
    assert head.size_bytes == len(seen)


# The head.


def test_a_head_is_read_with_its_size_and_nothing_of_what_follows() -> None:
    seen = request(b"Host:  a\t", b"X-A:b:c", b"X-a: \xff", b"X-Empty:")
    head = read_head(seen + b"GET /next HTTP/1.1\r\n\r\n")
    assert head == Head(
        method="GET",
        target=b"/livez",
        version="1.1",
        headers=((b"host", b"a"), (b"x-a", b"b:c"), (b"x-a", b"\xff"), (b"x-empty", b"")),
        size_bytes=len(seen),
        body_bytes=0,
    )


def test_a_head_is_not_whole_before_its_last_byte() -> None:
    seen = request(b"Host: a", b"Content-Length: 2")
    for cut in range(len(seen)):
        assert read_head(seen[:cut]) is None
        assert not has_whole_head(seen[:cut])
    assert read_head(seen) is not None
    assert has_whole_head(seen)


@pytest.mark.parametrize(
    "field",
    [
        b"no colon",
        b": no name",
        b"Name : a",
        b" folded: a",
        b"\tfolded",
        b"Na me: a",
        b"N\xe4me: a",
        b"Name: a\nContent-Length: 5",
        b"Name: a\rContent-Length: 5",
        b"Name: \x00",
        b"Name: \x0b",
        b"Name: \x7f",
        b"Name: a\n\nGET /user HTTP/1.1",
    ],
)
def test_a_line_that_servers_read_in_different_ways_makes_no_head(field: bytes) -> None:
    for fields in ([field], [b"Host: a", field], [field, b"Host: a"]):
        assert read_head(request(*fields)) is None
        assert has_whole_head(request(*fields))


def test_line_feeds_alone_do_not_hide_a_second_request_in_the_first_line() -> None:
    assert read_head(b"GET /livez HTTP/1.1\nHost:x\n\nGET:/user\r\n\r\n") is None


@pytest.mark.parametrize("seen", [b"GET / HTTP/1.1\n\n", b"a\n\r\n", b"\r\n\r\na\r\n\r\n"])
def test_an_end_that_a_server_might_see_is_seen(seen: bytes) -> None:
    assert has_whole_head(seen)


@pytest.mark.parametrize("seen", [b"", b"\r\n\r\n", b"\n\n", b"\r\n\r\nGET / HTTP/1.1\r\n"])
def test_empty_lines_in_front_end_no_head(seen: bytes) -> None:
    assert not has_whole_head(seen)


# The body.


@pytest.mark.parametrize(
    ("fields", "body_bytes"),
    [
        ([], 0),
        ([b"Content-Length: 0"], 0),
        ([b"CONTENT-LENGTH:\t17 "], 17),
        ([b"Content-Length: 000017"], 17),
        ([b"Content-Length: 1000"], 1000),
        ([b"Content-Length: 16384"], None),
        ([b"Content-Length: 99999999999999999999"], None),
        ([b"Content-Length: " + b"9" * 5000], None),
        ([b"Transfer-Encoding: chunked"], None),
        ([b"Transfer-Encoding: CHUNKED"], None),
        ([b"Expect: 100-continue", b"Content-Length: 3"], None),
        ([b"Upgrade: h2c", b"Connection: Upgrade"], None),
    ],
)
def test_a_body_has_the_length_that_is_named_or_cannot_be_told(
    fields: list[bytes], body_bytes: int | None
) -> None:
    head = head_of(*fields)
    assert head.body_bytes == body_bytes
    assert head.keeps_alive is (body_bytes is not None)


@pytest.mark.parametrize(
    "fields",
    [
        [b"Content-Length:"],
        [b"Content-Length: -1"],
        [b"Content-Length: +1"],
        [b"Content-Length: 1 1"],
        [b"Content-Length: 1, 1"],
        [b"Content-Length: 0x1"],
        [b"Content-Length: 1_0"],
        [b"Content-Length: \xb2"],
        [b"Content-Length: 1", b"Content-Length: 1"],
        [b"Content-Length: 1", b"content-length: 2"],
        [b"Content-Length: 1", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: chunked", b"Content-Length: 1"],
        [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: gzip, chunked"],
        [b"Transfer-Encoding: identity"],
        [b"Transfer-Encoding: xchunked"],
        [b"Transfer-Encoding:"],
    ],
)
def test_a_request_whose_end_could_be_doubted_is_left_to_a_server(fields: list[bytes]) -> None:
    assert read_head(request(b"Host: a", *fields)) is None


@pytest.mark.parametrize(("more", "fits"), [(0, True), (1, False)])
def test_a_body_that_ends_beyond_what_is_looked_at_ends_the_connection(
    more: int,
    fits: bool,  # noqa: FBT001
) -> None:
    overhead = len(request(b"Content-Length: 16000"))
    head = head_of(b"Content-Length: %d" % (HEAD_MAX_BYTES - overhead + more))
    assert head.size_bytes == overhead
    assert head.keeps_alive is fits


@pytest.mark.parametrize(
    ("fields", "version", "keeps"),
    [
        ([], b"1.1", True),
        ([b"Connection: keep-alive"], b"1.1", True),
        ([b"Connection: close"], b"1.1", False),
        ([b"connection:CLOSE"], b"1.1", False),
        ([b"Connection: x, Close ,y"], b"1.1", False),
        ([b"Connection: x", b"Connection: close"], b"1.1", False),
        ([b"Connection: closed"], b"1.1", True),
        ([], b"1.0", False),
        ([b"Connection: keep-alive"], b"1.0", False),
    ],
)
def test_a_connection_stays_unless_the_client_or_its_version_says_otherwise(
    fields: list[bytes],
    version: bytes,
    keeps: bool,  # noqa: FBT001
) -> None:
    assert head_of(*fields, line=b"GET /livez HTTP/" + version).keeps_alive is keeps


@pytest.mark.parametrize(
    ("fields", "is_handshake"),
    [
        ([b"Upgrade: websocket", b"Connection: Upgrade"], True),
        ([b"upgrade: WebSocket"], True),
        ([b"Upgrade: h2c", b"Upgrade: websocket"], True),
        ([b"Upgrade: h2c, HTTP2-Settings"], False),
        ([b"X-Upgrade: websocket"], False),
        ([], False),
    ],
)
def test_a_handshake_is_told_by_what_it_would_upgrade_to(
    fields: list[bytes],
    is_handshake: bool,  # noqa: FBT001
) -> None:
    assert head_of(*fields).is_handshake is is_handshake


# The scope.


@pytest.mark.parametrize("client", [None, ("192.0.2.7", 50000)])
def test_the_scope_is_the_one_that_a_server_makes(client: tuple[str, int] | None) -> None:
    line = b"HEAD http://h:1/%6civez?a=%20b?c#d?e HTTP/1.0"
    head = head_of(b"Host: h", b"X-A: b", line=line)
    assert scope_of(head, client=client) == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.0",
        "method": "HEAD",
        "scheme": "http",
        "path": "/livez",
        "raw_path": b"/%6civez",
        "query_string": b"a=%20b?c",
        "root_path": "",
        "headers": [(b"host", b"h"), (b"x-a", b"b")],
        "client": client,
        "server": None,
    }


# Answers.


@pytest.mark.parametrize("closes", [True, False])
@pytest.mark.parametrize("has_body", [True, False])
def test_an_answer_has_a_date_its_headers_and_its_body(closes: bool, has_body: bool) -> None:  # noqa: FBT001
    headers = ((b"content-length", b"2"), (b"x-a", b"b"))
    data = answer_bytes(503, headers, b"no", closes=closes, has_body=has_body)
    start, _, body = data.partition(b"\r\n\r\n")
    lines = start.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 503 Service Unavailable"
    date = lines[1].removeprefix(b"date: ").decode()
    assert date.endswith(" GMT")
    assert parsedate_to_datetime(date).year > 2020
    end = [b"connection: close"] if closes else []
    assert lines[2:] == [b"content-length: 2", b"x-a: b", *end]
    assert body == (b"no" if has_body else b"")


def test_an_answer_that_says_close_already_says_it_once() -> None:
    data = answer_bytes(200, ((b"connection", b"close"),), b"", closes=True)
    assert data.count(b"connection: close") == 1
