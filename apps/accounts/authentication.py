"""How a request says who makes it: by the session cookie that the admin's login sets."""

from django.conf import settings
from django.http import HttpRequest
from ninja.security import APIKeyCookie
from ninja.utils import check_csrf

from apps.accounts.models import User
from apps.core.errors import CsrfFailed, NotAuthenticated

__all__ = ["SessionAuth", "request_user"]


class SessionAuth(APIKeyCookie):
    """The user of Django's session; writing needs the CSRF token as well.

    Anonymous callers are told to log in before anything about tokens.
    """

    param_name = settings.SESSION_COOKIE_NAME

    def __init__(self) -> None:
        super().__init__(csrf=True)  # the documentation page sends the token along

    def __call__(self, request: HttpRequest) -> User:
        """Return the user.

        Raises:
            NotAuthenticated: nobody is logged in.
            CsrfFailed: the request writes and brings no valid token.
        """
        return self.authenticate(request, request.COOKIES.get(self.param_name))

    def authenticate(self, request: HttpRequest, key: str | None) -> User:
        """Return the user of the session; `key`, its cookie, has been read by the middleware."""
        user = request.user if key else None
        if not isinstance(user, User):
            raise NotAuthenticated
        if check_csrf(request) is not None:
            raise CsrfFailed
        return user


def request_user(request: HttpRequest) -> User:
    """Return the user whom the API has authenticated.

    Raises:
        NotAuthenticated: the endpoint asked for nobody.
    """
    if not isinstance(request.user, User):
        raise NotAuthenticated
    return request.user
