"""Write the site's pixel explorer: its scripts, and the book's model as data. make book runs this.

    python -m tools.explorer_data --out FOLDER

Writes explorer-data.js (the network and its weights; qlinear/explore.py has the format) and, one
file an image, explorer-ort-NN.js: every tensor that ONNX Runtime computes of it. The scripts and
the style are copied from qlinear/explorer.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np

from qlinear import explore, oracle
from qlinear.errors import run_command
from qlinear.inputs import load_samples
from qlinear.onnx_model import load
from study.cifar10 import CLASSES

ROOT = Path(__file__).resolve().parents[1]
MODEL = Path("models") / "resnet8_int8.onnx"


def short(name: str) -> str:
    """A node's name as the page shows it, and as its addresses have it."""
    for ending in ("_quant", "_QuantizeLinear", "_DequantizeLinear"):
        name = name.removesuffix(ending)
    return name


def site_data() -> dict:
    """The book's model and the 20 sample images, as explore.py has them."""
    model = load(ROOT / MODEL)
    images, labels = load_samples()
    feeds = [{"image": image[None].astype(np.float32)} for image in images]
    network = oracle.settle(model, feeds[0])
    files = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "data").glob("*.png"))]
    runs = [
        explore.Run(
            explore.ort_values(network, feed),
            CLASSES[label],
            explore.picture(feed["image"]),
            ("--input", file),
        )
        for feed, label, file in zip(feeds, labels, files, strict=True)
    ]
    labels = dict.fromkeys(("logits_quantized", "logits"), CLASSES)
    return explore.page_data(network, runs, model=MODEL.as_posix(), named=short, labels=labels)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the scripts")
    out = parser.parse_args(argv).out
    out.mkdir(parents=True, exist_ok=True)
    data = site_data()
    for index, run in enumerate(data["runs"]):
        values = explore.in_script(run["values"])
        script = f"window.QLINEAR_VALUES({index}, {values});\n"
        (out / f"explorer-ort-{index:02d}.js").write_text(script)
        run["values"] = None
    text = f"window.QLINEAR_EXPLORER = {explore.in_script(data)};\n"
    (out / "explorer-data.js").write_text(text)
    for name in (*explore.SCRIPTS, explore.STYLE, explore.START):
        shutil.copy(explore.FOLDER / name, out)
    print(f"wrote {out}: {len(text) // 1024} KB of data for {len(data['nodes'])} nodes")


if __name__ == "__main__":
    run_command(main)
