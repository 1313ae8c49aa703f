"""Download CIFAR-10 (170 MB), verify it and unpack it to DIR/cifar-10-batches-py.

python scripts/fetch_cifar10.py --data-dir DIR
"""

import argparse
import hashlib
import shutil
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from qlinear.errors import UnusableInput
from study.cifar10 import FOLDER, load_cifar10

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"


def download(url: str, target: Path) -> None:
    """Stream ``url`` into ``target``, with progress on standard error."""
    try:
        with urllib.request.urlopen(url, timeout=30) as reply, target.open("wb") as out:
            total, done = int(reply.headers.get("Content-Length") or 0), 0
            while block := reply.read(1 << 20):
                out.write(block)
                done += len(block)
                share = f" of {total >> 20}" if total else ""
                print(f"\rdownloading: {done >> 20}{share} MB", end="", file=sys.stderr)
            print(file=sys.stderr)
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise UnusableInput(
            f"{url}: {reason}; without a network, copy {FOLDER} from another machine and "
            f"give its folder with --data-dir"
        ) from None


def fetch(data_dir: Path, url: str = URL, sha256: str = SHA256) -> Path:
    """Download, verify, unpack beside the target, then move into place whole."""
    target = data_dir / FOLDER
    if target.exists():
        load_cifar10(data_dir, "train"), load_cifar10(data_dir, "test")
        print(f"{target}: already there and readable")
        return target
    data_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=data_dir) as folder:
        archive = Path(folder) / "cifar10.tar.gz"
        download(url, archive)
        with archive.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            raise UnusableInput(f"{url}: SHA-256 is {found}, not {sha256}; try again")
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        load_cifar10(folder, "train"), load_cifar10(folder, "test")
        shutil.move(Path(folder) / FOLDER, target)
    print(f"{target}: 50,000 training and 10,000 test images")
    return target


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="folder to unpack into")
    fetch(parser.parse_args(argv).data_dir)
