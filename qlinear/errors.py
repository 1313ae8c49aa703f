"""What command lines turn into a one-line message, and how they end."""

import argparse
import os
import signal
import sys
import unicodedata
import warnings
from collections.abc import Callable


class UnusableInput(Exception):
    """An input that cannot be used; the message names the culprit and says what to do."""


class Unsupported(UnusableInput):
    """A legal input that this function does not compute, as a type of another width."""


class Refused(UnusableInput):
    """ONNX Runtime refuses a model or an input, in one session at least."""


class Ended(BaseException):
    """A signal that asks us to end; an exception, so that whatever was begun is cleaned up."""


class Parser(argparse.ArgumentParser):
    """Reads a command line; what it cannot read ends in one line, like all that goes wrong."""

    def error(self, message: str):
        raise UnusableInput(f"{message}; see {self.prog} --help")


def printable(text: str) -> str:
    """Text with everything that a terminal obeys or hides written as an escape.

    Names come from a model, and a name may hold a newline, an escape sequence, or letters that
    change the direction of writing.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c
        if c == " " or unicodedata.category(c)[0] in "LMNPS"
        else c.encode("unicode_escape").decode()
        for c in text
    )


def _end(number: int, _frame) -> None:
    for other in _signals():  # a second one must not stop the cleaning up
        signal.signal(other, signal.SIG_IGN)
    raise KeyboardInterrupt if number == signal.SIGINT else Ended(number)


def _signals() -> list[int]:
    """The signals that ask us to end, but for those that whoever started us has ignored."""
    known = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]
    return [number for number in known if signal.getsignal(number) != signal.SIG_IGN]


def run_command(main: Callable[[], int | None]) -> None:
    """Run a command line and exit with its status.

    Whatever goes wrong ends in one line and status 2; with QLINEAR_TRACEBACK set, in a traceback.
    """
    for stream in (sys.stdout, sys.stderr):  # never fail on a character after the work is done
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if not sys.warnoptions:  # another library's warning is not among the lines that we promise
        warnings.simplefilter("ignore")
    for number in _signals():
        signal.signal(number, _end)
    try:
        status = main()
        if sys.stdout:  # None where it was closed from the start
            sys.stdout.flush()
        sys.exit(status)
    except UnusableInput as error:
        _fail(str(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Ended as signalled:
        sys.exit(128 + signalled.args[0])
    except BrokenPipeError:  # the reader of our output, such as head, went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        _fail(f"{error.filename or 'output'}: {error.strerror or error}")
    except MemoryError:
        _fail("out of memory")
    except Exception as error:
        if os.environ.get("QLINEAR_TRACEBACK"):
            raise
        lines = str(error).strip().splitlines() or [""]
        _fail(f"{type(error).__name__}: {lines[0]} (QLINEAR_TRACEBACK=1 shows where)")


def _fail(message: str) -> None:
    print(f"error: {printable(message)}", file=sys.stderr)
    sys.exit(2)
