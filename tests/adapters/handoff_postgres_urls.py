"""The paths of `handoff_postgres_app`."""

from django.urls import path

from tests.adapters.handoff_postgres import QUERIES

urlpatterns = [path(route, view) for route, view in QUERIES.items()]
