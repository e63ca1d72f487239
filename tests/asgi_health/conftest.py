"""What the core's tests share; the server's side of ASGI is in `server_side.py`."""

import sys
from pathlib import Path

from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))

# No deadline: a busy machine is no failure. No database: a test run leaves nothing behind.
settings.register_profile("asgi_health", deadline=None, max_examples=60, database=None)
settings.load_profile("asgi_health")
