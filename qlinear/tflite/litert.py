"""Run a ``.tflite`` file by LiteRT, in a process of its own.

A damaged file, or one that its kernels do not expect, can end the process that LiteRT is in: then
that is what a message says. What LiteRT prints is kept out of the way, and its last line quoted.
The other process is ``qlinear.tflite.serve``.
"""

import contextlib
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterable

import numpy as np

from qlinear.errors import Refused
from qlinear.tflite.model import TFLite, schema

REFERENCE, DEFAULT = "BUILTIN_REF", "AUTO"


def version() -> str:
    """The version of ai-edge-litert."""
    from importlib.metadata import version as of

    return of("ai-edge-litert")


class Session:
    """LiteRT with one file open.

    Args:
        kernels: a name of LiteRT's OpResolverType.
        keep: keep every tensor, so that any can be asked for.

    Raises:
        Refused: LiteRT does not open the file.
    """

    def __init__(self, model: TFLite, kernels: str = REFERENCE, *, keep: bool = False):
        schema()  # says what is missing
        self.model = model
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115, closed by close
        path = os.pathsep.join(filter(None, sys.path))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "qlinear.tflite.serve"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
            env=os.environ | {"PYTHONPATH": path},
        )  # fmt: skip
        try:
            self.ask((model.source, kernels, keep))
        except BaseException:
            self.close()
            raise

    def ask(self, message):
        """Send a message and wait for what comes of it."""
        try:
            pickle.dump(message, self.process.stdin)
            self.process.stdin.flush()
            said, found = pickle.load(self.process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError):
            status = self.process.wait()
            how = f"signal {-status}" if status < 0 else f"status {status}"
            last = self.last_line()
            raise Refused(
                f"{self.model.path}: LiteRT ended with {how}{f' ({last})' if last else ''}"
            ) from None
        if said == "error":
            raise Refused(f"{self.model.path}: LiteRT: {found or self.last_line()}")
        return found

    def last_line(self) -> str:
        """The last line that LiteRT printed."""
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="backslashreplace").strip().splitlines()
        return lines[-1][:300] if lines else ""

    def run(self, feeds: dict[str, np.ndarray], names: Iterable[str]) -> dict[str, np.ndarray]:
        """The named tensors, computed from the inputs by name; without those that it does not give.

        Raises:
            Refused: LiteRT refuses the inputs.
        """
        index, names = self.model.index, list(names)
        found = self.ask(({index[k]: v for k, v in feeds.items()}, [index[n] for n in names]))
        return {k: v for k, v in zip(names, found, strict=True) if v is not None}

    def close(self) -> None:
        """End the process."""
        for stream in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                stream.close()
        with contextlib.suppress(OSError):
            self.process.kill()
        self.process.wait()
        self.errors.close()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_) -> None:
        self.close()
