"""An application whose import does what imports should not: programs, threads, loggers, signals."""

import logging.config
import signal
import subprocess
import sys
import threading

import orders

failed = subprocess.run([sys.executable, "-c", "raise SystemExit(7)"], check=False)
print(f"the program ended with {failed.returncode}", flush=True)
threading.Thread(target=threading.Event().wait, name="forgotten", daemon=True).start()
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGCHLD):
    signal.signal(number, signal.SIG_IGN)
logging.config.dictConfig({"version": 1, "disable_existing_loggers": True})
orders.obey("import")

from plain import app  # noqa: E402 - the import that waits comes first

__all__ = ["app"]
