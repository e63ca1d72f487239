"""Uvicorn as Gunicorn's worker, alone or as one of a fleet."""

from asgi_health.adapters.uvicorn.server import Post, serve_in_fleet
from asgi_health.adapters.uvicorn.worker import Worker

__all__ = ["Post", "Worker", "serve_in_fleet"]
