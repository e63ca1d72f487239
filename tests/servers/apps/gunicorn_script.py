"""Gunicorn by its script, as people start it: `python -m gunicorn` cannot start itself anew."""

import os
import sys
from pathlib import Path

script = Path(sys.executable).with_name("gunicorn")
os.execv(sys.executable, [sys.executable, str(script), *sys.argv[1:]])
