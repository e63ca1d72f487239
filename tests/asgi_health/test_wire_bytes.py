"""Bytes that nobody thinks of: reading them never raises, and never says two things at once."""

import re

from hypothesis import example, given
from hypothesis import strategies as st

from asgi_health.fleet.wire import has_whole_head, path_of, read_head, scope_of

NO_PROBE = ("", "")
PIECES = st.sampled_from(
    [
        *(b"GET", b"POST", b" ", b"/livez", b"http://h", b"?", b"#", b"%", b"%6c", b"HTTP/1.1"),
        *(b"\r\n", b"\r\n\r\n", b"\n", b"\r", b":", b"\t", b"\0", b"\xff", b"Host: a"),
        *(b"Content-Length: 3", b"Content-Length:", b"Transfer-Encoding: chunked", b"abc"),
    ]
)
ANYTHING = st.binary(max_size=200) | st.lists(PIECES, max_size=25).map(b"".join)


@given(seen=ANYTHING, start=st.sampled_from([b"", b"GET /livez HTTP/1.1\r\n"]))
def test_no_bytes_whatever_make_it_raise(seen: bytes, start: bytes) -> None:
    found, head = path_of(start + seen), read_head(start + seen)
    has_whole_head(start + seen)
    if head is not None:
        scope_of(head, client=None)
        assert found is not None
        assert found in {NO_PROBE, (head.method, scope_of(head, client=None)["path"])}


@given(seen=ANYTHING, more=ANYTHING)
def test_what_comes_later_changes_neither_path_nor_head(seen: bytes, more: bytes) -> None:
    before, head = path_of(seen), read_head(seen)
    if before is not None:
        assert path_of(seen + more) == before
    if head is not None:
        assert read_head(seen + more) == head


@given(seen=ANYTHING)
@example(seen=b"GET /livez HTTP/1.1\r\nX: a\nY: b\r\n\r\n")
def test_a_head_has_no_line_end_but_its_own(seen: bytes) -> None:
    head = read_head(seen)
    if head is not None:
        raw = seen[: head.size_bytes].lstrip(b"\r\n")
        assert raw.endswith(b"\r\n\r\n")
        assert not re.search(rb"\r(?!\n)|(?<!\r)\n|\0", raw)
        assert len(raw.split(b"\r\n")) == len(head.headers) + 3


@given(
    names=st.lists(st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,8}", fullmatch=True), max_size=5),
    value=st.from_regex(r"[!-~]([ -~]{0,20}[!-~])?", fullmatch=True),
)
def test_whatever_a_client_may_send_comes_out_as_it_was(names: list[str], value: str) -> None:
    fields = [f"X-{name}: {value}".encode() for name in names]
    head = read_head(b"\r\n".join([b"GET / HTTP/1.1", *fields, b"", b""]))
    assert head is not None
    assert head.headers == tuple((f"x-{n}".lower().encode(), value.encode()) for n in names)
