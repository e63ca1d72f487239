#!/usr/bin/env python3
"""Django's command line for this project."""

import os
import sys

from project import logs
from project.env import InvalidEnvironment, current

__all__ = ["main"]


def main() -> None:
    """Run the command; a wrong environment is listed and ends it with exit code 1."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
    environment = current()
    logs.configure(environment, stream=sys.stderr)
    try:
        environment.check()
    except InvalidEnvironment as error:
        sys.exit(str(error))
    from django.core.management import execute_from_command_line  # noqa: PLC0415 - slow

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
