"""An application whose import forks a process that outlives it, and forgets to close anything."""

import os

import orders

is_fork = os.fork() == 0
orders.obey("import")
if is_fork:
    os._exit(0)

from plain import app  # noqa: E402 - the import that waits comes first

__all__ = ["app"]
