"""A Django project with the eight usual middlewares; its views stand in usual_urls."""

import json
import os
from pathlib import Path

SECRET_KEY = "only-for-benchmarks-" + 40 * "x"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "usual_urls"
USE_TZ = True
ASGI_HEALTH_HANDOFF_THREADS = int(os.environ.get("HANDOFF_THREADS", "32"))
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "corsheaders",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "corsheaders.middleware.CorsMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
CORS_ALLOWED_ORIGINS = ["https://example.org"]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
_NO_DATABASE = {
    "ENGINE": "django.db.backends.sqlite3",
    "NAME": str(Path(__file__).with_name("none.sqlite3")),
}
DATABASES = {"default": json.loads(os.environ.get("BENCH_DATABASE", json.dumps(_NO_DATABASE)))}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
