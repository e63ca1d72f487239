"""`python -m asgi_health probe | boot-report | init`.

Each command is imported when it is called.
"""

import sys
from importlib import import_module

TYPE_CHECKING = False  # see asgi_health/__init__.py
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["main"]

USAGE = """\
usage: python -m asgi_health COMMAND [ARGUMENTS]

  probe [URL|PATH] [--timeout SECONDS] [--wait SECONDS]
      Ask a probe path; exit with 0 ready, 1 not ready, 2 unreachable, 3 wrong usage.
  boot-report MODULE:NAME
      Load the application behind a gate, or any other, without a server; print what took how long.
  init SETTINGS_MODULE [--directory DIR]
      Write health_asgi.py and gunicorn.conf.py for an existing Django project; overwrites nothing.

COMMAND --help tells more.
"""
EXIT_USAGE = 3
_COMMANDS = {
    "probe": "asgi_health.commands.probe",
    "boot-report": "asgi_health.commands.boot_report",
    "init": "asgi_health.commands.init",
}


def main(arguments: "Sequence[str] | None" = None) -> int:
    """Run a command; the exit code."""
    command, *rest = [*(sys.argv[1:] if arguments is None else arguments), ""]
    if command in {"-h", "--help", "help"}:
        sys.stdout.write(USAGE)
        return 0
    if command not in _COMMANDS:
        sys.stderr.write(USAGE)
        return EXIT_USAGE
    run: Callable[[Sequence[str]], int] = import_module(_COMMANDS[command]).run
    return run(rest[:-1])


if __name__ == "__main__":
    sys.exit(main())
