"""Run models by the ONNX Runtime that this Python has: python run_cases.py CASES RESULTS

CASES holds NAME.onnx and NAME.npz, its inputs. RESULTS gets NAME.npz, its outputs, or the array
``error``, ONNX Runtime's message; what is there already is kept. A name that ends in ``.exact``
asks for exact products of uint8 and int8. The first line printed is the versions, each other one
the name of a case that is done.

It runs on other processors and with other releases, so it needs NumPy and ONNX Runtime alone.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np

import onnxruntime


def outputs(path: Path) -> dict[str, np.ndarray]:
    """What one case computes, by the outputs' names."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if path.stem.endswith(".exact"):
        options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    with np.load(path.with_suffix(".npz")) as feeds:
        found = session.run(None, dict(feeds))
    return {o.name: y for o, y in zip(session.get_outputs(), found, strict=True)}


def main() -> None:
    cases, results = map(Path, sys.argv[1:3])
    versions = {"numpy": np.__version__, "onnxruntime": onnxruntime.__version__}
    print(json.dumps(versions), flush=True)
    for path in sorted(cases.glob("*.onnx")):
        out = results / f"{path.stem}.npz"
        if not out.exists():
            try:
                found = outputs(path)
            except Exception as error:  # of ONNX Runtime's own types
                found = {"error": np.array(str(error).strip().splitlines()[0])}
            partial = out.with_suffix(".part.npz")
            np.savez(partial, **found)
            os.replace(partial, out)
        print(path.stem, flush=True)


if __name__ == "__main__":
    main()
