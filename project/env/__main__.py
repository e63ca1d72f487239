"""`python -m project.env`: write the documents, or say what is wrong with the environment."""

import argparse
import sys
from collections.abc import Sequence

from project.env import InvalidEnvironment, current
from project.env.documents import example, settings_page

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what was asked for; return the exit code, 1 when the environment is wrong."""
    parser = argparse.ArgumentParser(prog="python -m project.env", description=__doc__)
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("--example", action="store_true", help="print the text of .env.example")
    choice.add_argument("--docs", action="store_true", help="print the text of docs/settings.md")
    choice.add_argument("--check", action="store_true", help="list what is wrong here; exit 1")
    options = parser.parse_args(arguments)
    if options.check:
        return _check()
    sys.stdout.write(example() if options.example else settings_page())
    return 0


def _check() -> int:
    try:
        current().check()
    except InvalidEnvironment as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write("The environment is complete.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
