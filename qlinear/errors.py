"""The one exception that command lines turn into a one-line message."""

import sys
from collections.abc import Callable


class UnusableInput(Exception):
    """An input that cannot be used; the message names the culprit and says what to do."""


def run_command(main: Callable[[], int | None]) -> None:
    """Run a command line: exit with its status, or with 2 and one line for unusable input."""
    try:
        sys.exit(main())
    except UnusableInput as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output, such as head, went away
        sys.stderr.close()
        sys.exit(141)
