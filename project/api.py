"""The HTTP API: its routers, and the one place where an error becomes an answer."""

from collections.abc import Callable, Iterator
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any, Final

from django.core.exceptions import RequestDataTooBig
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.http.request import RawPostDataException
from django.urls import URLPattern, URLResolver, path
from django.views.decorators.csrf import csrf_exempt
from ninja import NinjaAPI, Schema
from ninja.errors import AuthenticationError, HttpError, ValidationError
from ninja.renderers import JSONRenderer

from apps.accounts.authentication import SessionAuth
from apps.core.errors import DomainError, Invalid, NotAuthenticated, NotFound
from apps.core.texts import Text
from apps.projects.api import router as projects_router
from project.validation import field_messages

__all__ = ["api", "bad_request", "error_answer", "not_found", "urls"]

_JSON: Final = {"ensure_ascii": False, "separators": (",", ":")}


class Malformed(DomainError):
    """The body is not what its content type says."""

    code = "request.malformed"
    text = Text(en="The request could not be read.", ko="요청을 읽을 수 없습니다.")


class TooLarge(DomainError):
    """The body is larger than any endpoint takes."""

    code = "request.too_large"
    status = 413
    text = Text(en="The request is too large.", ko="요청이 너무 큽니다.")


class MethodNotAllowed(DomainError):
    """The address exists, the method does not."""

    code = "request.method_not_allowed"
    status = 405
    text = Text(
        en="This address does not take that method.", ko="이 주소에서 쓸 수 없는 메서드입니다."
    )


class ServerError(DomainError):
    """Something broke; the log says what."""

    code = "server.error"
    status = 500
    text = Text(
        en="Something went wrong on our side. Please try again later.",
        ko="서버에 문제가 생겼습니다. 잠시 뒤 다시 시도해 주세요.",
    )


class _Renderer(JSONRenderer):
    json_dumps_params = _JSON


class PingOut(Schema):
    """The process serves requests through all of Django."""

    status: str = "ok"


api = NinjaAPI(
    title="VideoPlanet API",
    version="1.0.0",
    description=(
        "Plan video productions. Every error has the same "
        "form: `code` for programs, `message` for people in the language of `Accept-Language`."
    ),
    urls_namespace="api",
    auth=SessionAuth(),
    renderer=_Renderer(),
)
api.add_router("/projects", projects_router)


@api.get("/ping", auth=None, tags=["service"], response=PingOut)
async def ping(request: HttpRequest) -> PingOut:
    """Answer without touching the database, the cache or the network."""
    del request
    return PingOut()


def error_answer(error: DomainError) -> HttpResponse:
    """Turn a named error into its answer."""
    message = error.message()
    body: dict[str, object] = {"code": error.code, "message": message, "detail": message}
    if error.fields:
        body["fields"] = error.fields
    return JsonResponse(body, status=error.status, json_dumps_params=_JSON)


@api.exception_handler(DomainError)
def _domain_error(request: HttpRequest, error: DomainError) -> HttpResponse:
    del request
    return error_answer(error)


@api.exception_handler(ValidationError)
def _validation_error(request: HttpRequest, error: ValidationError) -> HttpResponse:
    del request
    return error_answer(Invalid(fields=field_messages(error.errors)))


@api.exception_handler(Http404)
def _http_404(request: HttpRequest, error: Http404) -> HttpResponse:
    del request, error
    return error_answer(NotFound())


@api.exception_handler(HttpError)
def _http_error(request: HttpRequest, error: HttpError) -> HttpResponse:
    """The framework's own refusals: a body that is no JSON, nobody logged in."""
    del request
    if isinstance(error, AuthenticationError):
        return error_answer(NotAuthenticated())
    if error.status_code == Malformed.status:
        return error_answer(Malformed())
    raise error


@api.exception_handler(Exception)
def _unexpected(request: HttpRequest, error: Exception) -> HttpResponse:
    """Leave it to Django, which logs it once and asks `handler500` for the answer."""
    del request
    raise error


@api.exception_handler(RawPostDataException)
def _no_json(request: HttpRequest, error: RawPostDataException) -> HttpResponse:
    """A form where JSON belongs: somebody before us has read it as one."""
    del request, error
    return error_answer(Malformed())


def bad_request(exception: Exception) -> HttpResponse:
    """Answer for what Django refuses before any endpoint sees it."""
    return error_answer(TooLarge() if isinstance(exception, RequestDataTooBig) else Malformed())


@csrf_exempt  # or an unknown address would answer 403 to a POST
def not_found(request: HttpRequest, *_: object, **__: object) -> HttpResponse:
    """Answer for every address below /api/ that nothing else answers."""
    del request
    return error_answer(NotFound())


def server_error(request: HttpRequest) -> HttpResponse:
    """Answer for what nobody expected."""
    del request
    return error_answer(ServerError())


def urls() -> list[URLPattern]:
    """Return the API's patterns: each address with and without the slash, without a redirect."""
    patterns: list[URLPattern | URLResolver] = api.urls[0]
    return [spelled for pattern in patterns for spelled in _spellings(pattern)]


def _spellings(pattern: URLPattern | URLResolver) -> Iterator[URLPattern]:
    route = str(pattern.pattern)
    if not isinstance(pattern, URLPattern):
        raise TypeError(f"{route!r} is a nest of addresses; allowed: single ones.")
    if not route:  # only there for its name, from which the documentation takes its address
        yield path(route, not_found, name=pattern.name)
        return
    view = _with_json_405(pattern.callback)
    yield path(route, view, name=pattern.name)
    yield path(f"{route}/", view)


def _with_json_405(view: Callable[..., Any]) -> Callable[..., Any]:
    """The framework's 405 is plain text; ours has the form of every other error."""
    if iscoroutinefunction(view):

        @wraps(view)
        async def asynchronous(request: HttpRequest, **values: Any) -> HttpResponseBase:
            return _json_405(await view(request, **values))

        return asynchronous

    @wraps(view)
    def synchronous(request: HttpRequest, **values: Any) -> HttpResponseBase:
        return _json_405(view(request, **values))

    return synchronous


def _json_405(response: HttpResponseBase) -> HttpResponseBase:
    if response.status_code != MethodNotAllowed.status:
        return response
    answer = error_answer(MethodNotAllowed())
    answer["Allow"] = response["Allow"]
    return answer
