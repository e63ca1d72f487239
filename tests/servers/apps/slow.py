"""An application whose import takes as long as the test wants."""

import orders

orders.obey("import")

from plain import app  # noqa: E402 - the import that waits comes first

__all__ = ["app"]
