"""The queries of the tests as a project of its own, for a real server."""

import json
import os

from django.conf import settings

from asgi_health.adapters.django import get_asgi_application

settings.configure(
    ALLOWED_HOSTS=["*"],
    DATABASES={"default": {}, "postgres": json.loads(os.environ["DATABASE"])},
    INSTALLED_APPS=["django.contrib.sessions"],
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
    ROOT_URLCONF="tests.adapters.handoff_postgres_urls",
    SECRET_KEY="only-for-tests",
)

application = get_asgi_application(
    handoff=os.environ["HANDOFF"], threads=int(os.environ["HANDOFF_THREADS"])
)
