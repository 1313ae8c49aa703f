"""Read regular files only, and write whole ones or none."""

import contextlib
import os
import secrets
import shutil
import stat
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from qlinear.errors import UnusableInput


def require_regular(path: Path) -> None:
    """Refuse what is missing, or no regular file: a pipe or device may hang or never end.

    Raises:
        UnusableInput: the message says which.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise UnusableInput(f"{path}: no such file; check the path") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UnusableInput(f"{path}: {reason}") from None
    if stat.S_ISDIR(mode):
        raise UnusableInput(f"{path}: a folder; name a file")
    if not stat.S_ISREG(mode):
        raise UnusableInput(f"{path}: a pipe or device; name a regular file")


def read_bytes(path: Path) -> bytes:
    """A regular file's bytes.

    Raises:
        UnusableInput: it cannot be read.
    """
    require_regular(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnusableInput(f"{path}: {error.strerror}") from None


def check_apart(out: Path, sources: Iterable[Path]) -> None:
    """Refuse to write over a file that is read.

    Raises:
        UnusableInput: ``out`` is one of ``sources``, perhaps by another name.
    """
    for source in sources:
        with contextlib.suppress(OSError):  # one of them is not there, so they are not the same
            if out.samefile(source):
                raise UnusableInput(f"{out}: would replace {source}, which is read; name another")


def _beside(path: Path) -> Path:
    """A new name in the folder of ``path``.

    It is chosen before anything is made, so that a signal at any moment finds what to remove.
    """
    return path.with_name(f".{path.name[:40]}-{secrets.token_hex(8)}")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A name to write to, beside ``path``; afterwards it becomes ``path``, or nothing is left.

    A link is followed: what it points to is written.

    Raises:
        UnusableInput: the folder is missing or cannot be written to, or ``path`` is there and not
            a regular file.
    """
    try:
        target = Path(os.path.realpath(path))
        # to replace a device by a file would break the machine of a user who may
        if target.exists() and not target.is_file():
            raise UnusableInput(f"{path}: not a regular file; name another")
        partial = _beside(target)
    except (OSError, ValueError) as error:
        raise UnusableInput(f"{path}: {_reason(error)}; name another file") from None
    try:
        partial.touch(exist_ok=False)
        yield partial
        os.replace(partial, target)
    except OSError as error:
        raise UnusableInput(f"{path}: {_reason(error)}; nothing was written") from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


class _Withdrawn(Exception):
    """Leaves :func:`whole_file` before there is a file."""


def check_file(path: Path) -> None:
    """Refuse before the work what :func:`whole_file` would refuse after it; nothing is left.

    Raises:
        UnusableInput: as :func:`whole_file` does.
    """
    with contextlib.suppress(_Withdrawn), whole_file(path):
        raise _Withdrawn


def check_folder(path: Path) -> None:
    """Refuse before the work what :func:`new_folder` would refuse; nothing is left.

    Raises:
        UnusableInput: as :func:`new_folder` does.
    """
    try:
        _require_free(path)
        # none of the missing folders is made: another writer might take it for one that stays
        above = next(folder for folder in path.absolute().parents if folder.exists())
        probe = _beside(above / path.name)
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise UnusableInput(f"{path}: {_reason(error)}; nothing was written") from None


def _require_free(path: Path) -> None:
    if not path.name or path.is_symlink():  # no name: . or /
        raise _taken(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise _taken(path)


def _taken(path: Path) -> UnusableInput:
    return UnusableInput(f"{path}: exists and is not an empty folder; name another")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill beside ``path``; then it becomes ``path`` at once, or nothing is left.

    Raises:
        UnusableInput: ``path`` is there and not an empty folder, or cannot be written.
    """
    made: list[Path] = []
    work = None
    try:
        _require_free(path)
        missing = [p for p in (path.parent, *path.parent.parents) if not p.exists()]
        for folder in reversed(missing):
            with contextlib.suppress(FileExistsError):  # another writer was faster
                folder.mkdir()
                made.append(folder)
        work = _beside(path)
        work.mkdir()
        yield work
        try:
            os.rename(work, path)  # replaces an empty folder, and fails on any other
        except OSError:
            if path.exists():
                raise _taken(path) from None
            raise
        made.clear()
    except OSError as error:
        raise UnusableInput(f"{path}: {_reason(error)}; nothing was written") from None
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
        for folder in reversed(made):  # leave no parents behind either
            with contextlib.suppress(OSError):
                folder.rmdir()


def write_arrays(path: Path, arrays: Iterable[tuple[str, np.ndarray]]) -> int:
    """Write a .npz archive, an array at a time; returns how many.

    Unlike ``np.savez`` it takes any name, and arrays that are made as they are written. A type that
    NumPy lacks is written as the bytes that hold it.
    """
    written: dict[str, None] = {}
    with (
        whole_file(path) as partial,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name, array in arrays:
            if name in written or not isinstance(array, np.ndarray):
                continue
            written[name] = None
            if array.dtype.kind == "O":
                array = array.astype(str)
            if array.dtype.kind == "V" or array.dtype.isbuiltin == 2:
                array = array.view(f"u{array.itemsize}")
            # a fixed date, so that the same tensors give the same bytes
            member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            member.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(member, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    return len(written)


def write_text(path: Path, text: str) -> None:
    """Write a text file, UTF-8 with plain newlines, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_bytes(text.encode())


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
