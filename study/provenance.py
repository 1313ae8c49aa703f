"""Where a recorded number comes from: written into every JSON file that the chapters quote."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx

from qlinear.errors import UnusableInput

import onnxruntime


def recorded(
    script: str,
    models: list[Path],
    images: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    *,
    note: str = "",
    **more: int | str,
) -> dict:
    """The record that tells which bytes and versions made the numbers beside it.

    Args:
        script: the command that makes them again.
        models: the files that they were measured on.
        images, labels: the data; their bytes are hashed.
        note: the data in words.
        **more: what else the numbers depend on, such as the batch size.
    """
    record: dict = {"script": script, "models": {p.name: sha256(p.read_bytes()) for p in models}}
    if images is not None:
        record["data"] = {"note": note, "images": len(images), "sha256": _hash(images, labels)}
    versions = {module.__name__: module.__version__ for module in (np, onnx, onnxruntime)}
    return {**record, "versions": versions, **more}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _hash(images: np.ndarray, labels: np.ndarray | None) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(images, np.uint8).tobytes())
    if labels is not None:
        digest.update(np.ascontiguousarray(labels, np.int64).tobytes())
    return digest.hexdigest()


def stored(path: Path, part: str) -> dict:
    """The record as it is, of which what is not measured now is kept; empty where there is none.

    Args:
        part: the key of the part that is kept, itself an object where it is there.

    Raises:
        UnusableInput: the file is something else.
    """
    try:
        record = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        record = None
    if not isinstance(record, dict) or not isinstance(record.get(part, {}), dict):
        raise UnusableInput(f"{path}: not a JSON record of this script; name another with --out")
    return record
