"""What the core's tests share; the server's side of ASGI is in `server_side.py`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
