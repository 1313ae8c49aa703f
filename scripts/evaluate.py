#!/usr/bin/env python3
"""Run CIFAR-10's 10,000 test images through every model, by the reference and by ONNX Runtime.

    python scripts/evaluate.py --data-dir DIR [--network mobilenet]

Writes models/accuracy.json, or models/mobilenet_accuracy.json: for each model file its accuracy,
overall and per class, and over how many elements of all its tensors the reference was compared with
ONNX Runtime, and how many differ. Takes minutes on two cores. Exit status: 1 if an element differs.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path

from tqdm import tqdm

from qlinear.errors import run_command
from qlinear.files import write_text
from qlinear.onnx_model import load
from study.cifar10 import load_cifar10, options, settled
from study.evaluate import compare_forms, evaluate
from study.provenance import recorded
from study.quantize import equalized_mobilenet

FILES = {
    "resnet8": (
        "resnet8",
        "resnet8_int8",
        "resnet8_int8_per_tensor",
        "resnet8_int8_per_channel",
        "resnet8_uint8",
    ),
    "mobilenet": (
        "mobilenet",
        "mobilenet_int8_per_tensor",
        "mobilenet_int8_per_channel",
        "mobilenet_int8_equalized",
    ),
}
OUT = {"resnet8": "accuracy.json", "mobilenet": "mobilenet_accuracy.json"}
# a network that is in no file: mobilenet.onnx as its equalized INT8 form is made of it
WITH_RELU = "mobilenet.onnx, with ReLU for ReLU6"


def main(argv: list[str] | None = None) -> int:
    parser = options(__doc__, record=" or ".join(OUT.values()))
    parser.add_argument("--network", choices=FILES, default="resnet8")
    args = parser.parse_args(argv)
    out = settled(args, record=OUT[args.network])
    images, labels = load_cifar10(args.data_dir, "test")
    images, labels = images[: args.images], labels[: args.images]

    files = [args.models / f"{name}.onnx" for name in FILES[args.network]]
    models = [load(path) for path in files]
    if args.network == "mobilenet":
        models.append(replace(equalized_mobilenet(files[0]), path=Path(WITH_RELU)))
    scores, batch = [], 100
    for model in models:
        rounds, name = evaluate(model, images, labels, batch), model.path.name
        bar = tqdm(rounds, name, total=-(-len(images) // batch), unit="batch")
        score = list(bar)[-1]
        scores.append(score.as_json())
        print(f"{name}: {scores[-1]['accuracy']:.2%}, {score.differing} of {score.elements} differ")

    command = "scripts/evaluate.py"
    command += "" if args.network == "resnet8" else f" --network {args.network}"
    source = recorded(command, files, images, labels, note=args.data_note, batch=batch)
    record = {"recorded": source, "images": len(images), "models": scores}
    if args.network == "resnet8":
        record["qdq"] = [asdict(form) for form in compare_forms(args.models, images)]
        for form in record["qdq"]:
            print(f"{form['form']}: {form['differing']} of {form['logits']} logits differ")
    write_text(out, json.dumps(record, indent=1) + "\n")
    print(f"wrote {out}")
    return int(any(score["differing"] for score in scores))


if __name__ == "__main__":
    run_command(main)
