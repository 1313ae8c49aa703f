"""``qlinear study``: its options, and what it does with them."""

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from qlinear.errors import UnusableInput, printable
from qlinear.files import check_apart, check_folder, write_text
from qlinear.hardware.designs import DESIGNS
from qlinear.onnx_model import load
from qlinear.studies import settings, workers
from qlinear.studies import study as studies
from qlinear.studies.settings import Setting

EXAMPLES = """examples:
  qlinear study MODEL.onnx --data images.npz --out study
  qlinear study MODEL.onnx --data images.npz --out study --images 1000 --workers 0
  qlinear study MODEL.onnx --data images.npz --out study --accumulators 14,16,18 --weights 4,5,6
  qlinear study MODEL.onnx --data images.npz --out study --designs ISAAC,PRIME --sensitivity all
  qlinear study --print-settings > mine.toml
  qlinear study MODEL.onnx --data images.npz --out study --settings mine.toml
  qlinear study MODEL.onnx --data images.npz --out study --scheduler tcp://10.0.0.1:8786

images.npz holds the images under the name of the model's input, or x, and perhaps their classes
under labels or y:  numpy.savez("images.npz", x=x, labels=labels)

Weights and activations of fewer bits are made of the file's integers, which are rounded again: no
float network is read. To study what a quantizer makes of one, let it write files for the same
inputs, and name them in FILE.toml beside the other settings:
  [[files]]
  file = ["weights4.onnx", "all5.onnx"]  # found from where FILE.toml lies
  [[files]]
  file = "all5.onnx"
  saturate = 5  # every int8 tensor that a node writes is clipped to 5 bits

exit statuses:
  0 report.html, results.csv and results.json are written
  2 the model, the data or a setting is unusable, or a worker is; one line says why. What is
    finished is kept in the folder, and the same command goes on from there"""
FLAGS = {  # option: section, key, and what it is
    "accumulators": ("accumulators", "bits", "widths of accumulators"),
    "multipliers": ("requantization", "multiplier_bits", "bits of multipliers; 0: a shift alone"),
    "weights": ("bit_widths", "weights", "bits of weights, made of the file's 8-bit integers"),
    "activations": ("bit_widths", "activations", "bits of activations, in the file's ranges"),
    "adc": ("analog", "adc_bits", "bits of the converters of analog arrays"),
}
OUTPUTS = "results.json", "results.csv", "report.html"


class PrintSettings(argparse.Action):
    """--print-settings: print the settings that are tried by default, and end."""

    def __call__(self, parser, namespace, values, option_string=None):
        print(settings.DEFAULT.read_text(), end="")
        parser.exit()


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def add_options(one: argparse.ArgumentParser) -> None:
    one.epilog = EXAMPLES
    one.add_argument("--data", type=Path, required=True, metavar="FILE.npz",
                     help="images, and perhaps labels")  # fmt: skip
    one.add_argument("--out", type=Path, required=True, metavar="DIR",
                     help="folder of results; a study that was stopped goes on in it")  # fmt: skip
    one.add_argument("--settings", type=Path, metavar="FILE.toml",
                     help="what to try (default: see --print-settings)")  # fmt: skip
    one.add_argument("--print-settings", nargs=0, action=PrintSettings,
                     help="print the default settings, to start from, and exit")  # fmt: skip
    for flag, (_, _, what) in FLAGS.items():
        one.add_argument(f"--{flag}", type=numbers, metavar="N,M,…", help=f"only: {what}")
    one.add_argument("--designs", metavar="A,B,…",
                     help=f"only: published designs, of {', '.join(DESIGNS)}")  # fmt: skip
    one.add_argument("--sensitivity", choices=("none", "some", "all"), default="some",
                     help="each layer alone, and all but it: never, in the settings that ask for "
                     "it, or in all (default: %(default)s)")  # fmt: skip
    one.add_argument("--images", type=int, help="the first ones only (default: all)")
    one.add_argument("--batch", type=int, default=studies.BATCH,
                     help="images of a task (default: %(default)s)")  # fmt: skip
    one.add_argument("--compared", type=int, default=studies.COMPARED, metavar="IMAGES",
                     help="count changed elements on so many (default: %(default)s)")  # fmt: skip
    one.add_argument("--output", default="", help="the graph's output to look at (default: first)")
    one.add_argument("--workers", type=int, metavar="N",
                     help="processes on this machine; 0: none but this (default: one a core, with "
                     "Dask)")  # fmt: skip
    one.add_argument("--scheduler", default="", metavar="ADDRESS",
                     help="of a Dask cluster that does the work")  # fmt: skip


def from_flags(args: argparse.Namespace) -> list[Setting]:
    """The settings that flags ask for; without any, those of a file.

    Raises:
        UnusableInput: both are given, or a value is illegal.
    """
    content: dict[str, list[dict]] = {}
    for flag, (section, key, _) in FLAGS.items():
        values = getattr(args, flag)
        if values is not None:
            content.setdefault(section, []).append({key: values})
    if args.designs:
        content.setdefault("analog", []).append({"design": args.designs.split(",")})
    if not content:
        return settings.read(args.settings or settings.DEFAULT)
    if args.settings:
        raise UnusableInput(f"{args.settings}: --settings and flags of settings; leave one out")
    return settings.settled(content, "the options")


def study(args: argparse.Namespace) -> int:
    """Measure what cheaper arithmetic does to a network, on your own images."""
    from qlinear.studies import page, report

    model = load(args.model)
    check_apart(args.out, [args.model, args.data])
    if args.scheduler and args.workers is not None:
        raise UnusableInput("--scheduler and --workers: a cluster has its own; leave one out")
    if not (args.out / workers.JOURNAL).exists():
        check_folder(args.out)
    asked = from_flags(args)
    processes = _processes(args)
    data = studies.read_data(model, args.data)
    plan = studies.plan(
        model, data, asked, images=args.images, batch=args.batch, compared=args.compared,
        output=args.output, sensitivity=args.sensitivity,
    )  # fmt: skip

    def bar(results: Iterable, title: str, total: int, done: int) -> Iterable:
        with tqdm(desc=title, total=total, initial=done, unit="task", disable=None) as shown:
            for result in results:
                yield result
                shown.update()

    if args.workers is None and not (processes or args.scheduler):
        note = "note: one process alone; with Dask there are several: pip install 'qlinear[study]'"
        print(note, file=sys.stderr)
    rows = studies.run(plan, args.out, processes=processes, scheduler=args.scheduler, progress=bar)
    made = report.as_json(plan, rows), report.as_csv(plan, rows), page.html(plan, rows)
    for name, text in zip(OUTPUTS, made, strict=True):
        write_text(args.out / name, text)
    print("\n".join(map(printable, report.summary(plan, rows))))
    print(printable(f"wrote {args.out}: {', '.join(OUTPUTS)}"))
    return 0


def _processes(args: argparse.Namespace) -> int:
    """How many processes of this machine work; none with a cluster.

    Raises:
        UnusableInput: a number below 0, or Dask is asked for and not installed.
    """
    if args.workers is not None and args.workers < 0:
        raise UnusableInput(f"--workers is {args.workers}: 0 or more needed")
    if args.workers == 0:
        return 0
    if args.workers or args.scheduler:
        workers.distributed()
        return args.workers or 0
    if workers.there():
        return os.cpu_count() or 1
    return 0
