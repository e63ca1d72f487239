"""The pools of database connections that this process has."""

import sys
from collections.abc import Mapping
from typing import Any

__all__ = ["pool_figures"]

_BACKEND = "django.db.backends.postgresql.base"


def pool_figures() -> dict[str, Mapping[str, int]]:
    """What psycopg says of each pool, by alias; opens none and loads nothing.

    Source: psycopg_pool's `get_stats`, https://www.psycopg.org/psycopg3/docs/advanced/pool.html
    """
    backend: Any = sys.modules.get(_BACKEND)
    if backend is None:
        return {}
    # The property `pool` would open one: Django has no other name for those that are open.
    pools = getattr(backend.DatabaseWrapper, "_connection_pools", {})
    return {alias: pool.get_stats() for alias, pool in list(pools.items())}
