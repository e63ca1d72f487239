"""Django's stock ASGI handler with the eight usual middlewares and a trivial view, without a
database.
"""

import django
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import path


async def trivial(request: HttpRequest) -> HttpResponse:
    del request
    return HttpResponse(b"ok", content_type="text/plain")


urlpatterns = [path("", trivial)]

settings.configure(
    SECRET_KEY="benchmark only, never served to anybody but this machine",
    ALLOWED_HOSTS=["localhost"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=[
        "django.contrib.contenttypes",
        "django.contrib.auth",
        "django.contrib.sessions",
        "django.contrib.messages",
        "corsheaders",
    ],
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "corsheaders.middleware.CorsMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
    ],
)
django.setup(set_prefix=False)

from django.core.asgi import get_asgi_application  # noqa: E402 - after the settings

app = get_asgi_application()
