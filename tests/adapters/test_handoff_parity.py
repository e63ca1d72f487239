"""Whatever the site and the request: the answer and the calls are those of Django's handler."""

import json
from typing import Any

import pytest
from django.contrib import messages
from django.core.exceptions import BadRequest, PermissionDenied, SuspiciousOperation
from django.http import (
    Http404,
    HttpResponse,
    HttpResponseRedirect,
    JsonResponse,
    StreamingHttpResponse,
)
from django.middleware.csrf import get_token
from django.template.response import SimpleTemplateResponse
from django.views.decorators.csrf import csrf_exempt
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.adapters.handoff_parity import HOOKS, SHAPES, both, make_middleware
from tests.adapters.handoff_site import Site

ERRORS: list[Any] = [
    ValueError("a"),
    Http404("b"),
    PermissionDenied("c"),
    BadRequest("d"),
    SuspiciousOperation("e"),
]
EXCEPTION = "process_exception"
PURE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.gzip.GZipMiddleware",
    "django.middleware.http.ConditionalGetMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]


class Template(SimpleTemplateResponse):
    """A response that is rendered late, from a text."""

    def __init__(self, text: str, *, fails: bool = False) -> None:
        super().__init__("unused", {})
        self.text, self.fails = text, fails

    @property
    def rendered_content(self) -> str:
        if self.fails:
            raise ValueError("render")
        return self.text


class AsyncTemplate(Template):
    """Rendered by a coroutine."""

    async def render(self) -> Any:  # type: ignore[override]
        return super().render()


def touch_session(request: Any) -> Any:
    request.session["n"] = request.session.get("n", 0) + 1
    return HttpResponse(str(request.session["n"]))


def add_message(request: Any) -> Any:
    messages.info(request, "done")
    return HttpResponse("added")


def list_messages(request: Any) -> Any:
    return HttpResponse(",".join(map(str, messages.get_messages(request))))


def fail(request: Any) -> Any:
    raise ValueError(request.path)


def miss(request: Any) -> Any:
    raise Http404("nothing")


def parts() -> Any:
    yield from (b"one", b"", b"two")


async def aparts() -> Any:
    for part in parts():
        yield part


def use_token(request: Any) -> Any:
    get_token(request)
    return HttpResponse("token")


def fill(site: Site) -> None:
    """The views; each synchronous and asynchronous."""

    def add(name: str, act: Any) -> None:
        def view(request: Any) -> Any:
            site.note("view", request.method, request.META.get("QUERY_STRING"))
            return act(request)

        async def aview(request: Any) -> Any:
            site.note("async view", request.method, request.META.get("QUERY_STRING"))
            return act(request)

        exempt = csrf_exempt if name == "exempt" else lambda made: made
        site.view(exempt(view), route=name)
        site.view(exempt(aview), route=f"a{name}")

    for name, act in ACTIONS.items():
        add(name, act)


ACTIONS: dict[str, Any] = {
    "text": lambda _request: HttpResponse("text " * 100),
    "none": lambda _request: None,
    "template": lambda _request: Template("late"),
    "badtemplate": lambda _request: Template("late", fails=True),
    "asynctemplate": lambda _request: AsyncTemplate("later"),
    "badasynctemplate": lambda _request: AsyncTemplate("later", fails=True),
    "fail": fail,
    "miss": miss,
    "redirect": lambda _request: HttpResponseRedirect("/text"),
    "session": touch_session,
    "message": add_message,
    "messages": list_messages,
    "token": use_token,
    "form": lambda request: JsonResponse(dict(request.POST.items())),
    "exempt": lambda request: HttpResponse(request.body),
    "stream": lambda _request: StreamingHttpResponse(parts()),
    "astream": lambda _request: StreamingHttpResponse(aparts()),
    "user": lambda request: HttpResponse(str("user" in vars(request))),
    "big": lambda _request: HttpResponse(b"x" * 200_000),
    "slash/": lambda _request: HttpResponse("slash"),
}
VIEWS = [*ACTIONS, "slash", "nothing"]
ROUTES = [f"/{prefix}{name}" for name in VIEWS for prefix in ("", "a")] + ["/", "//", "/é", "/a%2F"]
HOST = (b"host", b"shop.example")
FORM = (b"content-type", b"application/x-www-form-urlencoded")


@st.composite
def request_made(draw: Any) -> dict[str, Any]:
    """A request as a scope and body of it."""
    method = draw(st.sampled_from(["GET", "GET", "HEAD", "POST", "OPTIONS", "put"]))
    headers = [draw(st.sampled_from([HOST] * 8 + [(b"host", b"evil.example"), (b"x", b"y")]))]
    pieces: list[bytes] = [b""]
    if method in {"POST", "put"}:
        token = draw(st.sampled_from([b"a" * 32, b"a" * 32, b"b" * 32]))
        headers += [(b"cookie", b"csrftoken=" + b"a" * 32)]
        kind = draw(st.sampled_from(["form", "json", "header", "multipart"]))
        if kind == "form":
            headers.append(FORM)
            pieces = [b"n=1&csrfmiddleware", b"token=", token]
        elif kind == "multipart":
            headers.append((b"content-type", draw(st.sampled_from([b"multipart/form-data", b""]))))
            pieces = [b"--x"]
        else:
            pieces = [json.dumps({"n": 1}).encode()]
            headers += [(b"content-type", b"application/json"), (b"x-csrftoken", token)]
    length = draw(st.sampled_from([None, None, b"abc", b"-1", b"%d"]))
    if length is not None:
        size = sum(map(len, pieces))
        headers.append((b"content-length", b"%d" % size if length == b"%d" else length))
    headers += draw(
        st.lists(
            st.sampled_from(
                [
                    (b"accept-encoding", b"gzip"),
                    (b"accept-language", b"ko"),
                    (b"if-none-match", b"*"),
                    (b"cookie", b'messages="x"; sessionid=unknown; broken'),
                ]
            ),
            max_size=2,
        )
    )
    query = draw(st.sampled_from([b"", b"a=1&a=2", b"%ff", b"\xff", b"next=%2F"]))
    route = draw(st.sampled_from(ROUTES))
    return {
        "route": route,
        "method": method,
        "headers": headers,
        "pieces": pieces,
        "query": query,
    }


ACTS = {
    "pass": None,
    "short": lambda *_args: HttpResponse("short", status=203),
    "late": lambda *_args: Template("from a middleware"),
    **{f"raise {i}": i for i in range(len(ERRORS))},
}


@st.composite
def middleware_made(draw: Any) -> Any:
    """A pure one, or the shape, the hooks and the acts of another."""
    if draw(st.booleans()):
        return draw(st.sampled_from(PURE))
    acts = {}
    for hook in draw(st.sets(st.sampled_from([*HOOKS, EXCEPTION]), max_size=4)):
        acts[hook] = draw(st.sampled_from(["pass"] * 6 + sorted(ACTS)))
    return draw(st.sampled_from([*SHAPES, "mixin"])), acts


def act_of(name: str) -> Any:
    """What a name of `ACTS` does."""
    act = ACTS[name]
    if isinstance(act, int):
        error = ERRORS[act]

        def raise_it(*_args: Any) -> Any:
            raise type(error)(*error.args)

        return raise_it
    return act or (lambda *_args: None)


def add_stack(site: Site, stack: list[Any]) -> None:
    """Add what `middleware_made` drew."""
    for number, entry in enumerate(stack):
        if isinstance(entry, str):
            site.middleware(entry)
        else:
            shape, acts = entry
            made = {hook: act_of(name) for hook, name in acts.items()}
            site.middleware(make_middleware(site, str(number), shape, made))


@settings(
    deadline=None,
    max_examples=120,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    stack=st.one_of(st.just(PURE), st.lists(middleware_made(), max_size=5, unique_by=str)),
    requests=st.lists(request_made(), min_size=1, max_size=3),
    switches=st.sampled_from(
        [{}, {}, {}, {"with_receivers": True}, {"DEBUG_PROPAGATE_EXCEPTIONS": True}]
    ),
)
async def test_any_stack_answers_any_request_as_stock(
    stack: list[Any], requests: list[Any], switches: dict[str, Any]
) -> None:
    def build(site: Site) -> list[Any]:
        fill(site)
        add_stack(site, stack)
        return requests

    stock, ours = await both(build, **switches)
    assert ours == stock


STACKS: dict[str, list[Any]] = {
    "nothing": [],
    "pure": PURE,
    "request hooks": [("mixin", {"process_request": "pass"}), ("mixin", {})],
    "all hooks": [*PURE, ("mixin", dict.fromkeys([*HOOKS, EXCEPTION], "pass"))],
    "sync": [PURE[3], ("sync", {}), ("class", {EXCEPTION: "short"}), PURE[8]],
    "async": [("both", {}), PURE[0], ("async", {}), ("mixin", {"process_response": "pass"})],
}


@pytest.mark.parametrize("more", [{}, {"DEBUG_PROPAGATE_EXCEPTIONS": True}, {"DEBUG": True}])
@pytest.mark.parametrize("stack", STACKS)
async def test_every_view_answers_below_every_kind_of_stack_as_in_stock(
    stack: str, more: dict[str, Any]
) -> None:
    def build(site: Site) -> list[Any]:
        fill(site)
        add_stack(site, STACKS[stack])
        return [{"route": route} for route in ROUTES]

    stock, ours = await both(build, **more)
    assert ours["calls"] == stock["calls"]
    assert ours["records"] == stock["records"]
    for route, of_stock, of_ours in zip(ROUTES, stock["answers"], ours["answers"], strict=True):
        if "DEBUG" in more and of_stock[0] in {400, 404, 500}:  # a page with a traceback
            assert of_ours[0] == of_stock[0], route
        else:
            assert of_ours == of_stock, route


POSITIONS = [*HOOKS, EXCEPTION]


@pytest.mark.parametrize("view", ["text", "atext", "badtemplate", "abadtemplate", "fail", "afail"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("position", POSITIONS)
async def test_an_exception_anywhere_ends_as_in_stock(position: str, shape: str, view: str) -> None:
    def build(site: Site) -> list[Any]:
        fill(site)
        silent = {hook: lambda *_args: None for hook in POSITIONS}
        for name, kind in (("outer", "mixin"), ("tested", shape), ("inner", "mixin")):
            acts = silent | ({position: act_of("raise 0")} if name == "tested" else {})
            site.middleware(make_middleware(site, name, kind, acts))
            site.middleware(PURE[0])
        return [{"route": f"/{view}"}]

    for more in ({}, {"DEBUG_PROPAGATE_EXCEPTIONS": True}):
        stock, ours = await both(build, **more)
        assert ours == stock
        assert ours["calls"]


@pytest.mark.parametrize("view", ["text", "atext"])
@pytest.mark.parametrize("path", PURE)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_pure_middleware_meets_what_others_answer_as_in_stock(
    method: str, path: str, view: str
) -> None:
    for act in ("short", "late", "none"):

        def build(site: Site, act: str = act) -> list[Any]:
            fill(site)
            site.middleware(path)
            if act == "none":
                site.middleware(PURE[0])
                acts: Any = {"process_response": lambda *_args: Broken}
                site.middleware(make_middleware(site, "x", "sync", acts))
            else:
                acts = {"process_request": act_of(act)}
                site.middleware(make_middleware(site, "x", "mixin", acts))
            return [{"route": f"/{view}", "method": method}]

        stock, ours = await both(build)
        assert ours == stock


class Broken:
    """No response at all."""
