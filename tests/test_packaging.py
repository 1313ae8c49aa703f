"""What is built to be installed: the wheel, the sdist, and the commands outside the repository."""

import ast
import doctest
import email
import importlib
import json
import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import MODELS, ROOT

import qlinear
from qlinear.inputs import load_samples
from qlinear.operators import OPERATORS
from qlinear.validate import STATUS_TABLE

README = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def run(command: list, folder: Path, **changes: str | None) -> subprocess.CompletedProcess:
    """Run a command in a folder, away from the repository unless PYTHONPATH says so."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | changes
    env = {k: v for k, v in env.items() if v is not None}
    command = [str(part) for part in command]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=env)


def build(source: Path, out: Path, *options: str) -> None:
    """Build without fetching anything."""
    done = run([sys.executable, "-m", "hatchling", "build", "-d", out, *options], source)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the wheel and the sdist of this tree."""
    out = tmp_path_factory.mktemp("dist")
    build(ROOT, out)
    return out


@pytest.fixture(scope="module")
def unpacked(built, tmp_path_factory) -> Path:
    """The unpacked sdist."""
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    return next(folder.iterdir())


@pytest.fixture(scope="module")
def reader(built, tmp_path_factory) -> Path:
    """A reader's folder: an environment with the wheel and its dependencies, a model, a picture."""
    folder = tmp_path_factory.mktemp("reader")
    venv.create(folder / "env", with_pip=False, symlinks=True)
    python = folder / "env" / "bin" / "python"
    inside = Path(
        run([python, "-c", "import site; print(site.getsitepackages()[0])"], folder).stdout.strip()
    )
    # the packages of this environment; their own .pth files are not read, and so the repository,
    # which is installed by one, is not among them
    folders = [path for path in sys.path if path.endswith("site-packages")]
    (inside / "dependencies.pth").write_text("\n".join(folders))
    wheel = next(built.glob("*.whl"))
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--no-deps",
        "--no-index",
    ]
    done = run([*install, wheel], folder)
    assert done.returncode == 0, done.stderr
    shutil.copy(MODELS / "resnet8_int8.onnx", folder / "model.onnx")
    shutil.copy(ROOT / "data" / "cifar10_00_3.png", folder / "photo.png")
    images, labels = load_samples()
    np.savez(folder / "images.npz", x=images[:1], labels=labels[:1])
    return folder


def test_the_wheel_holds_the_library_alone(built):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
        (info,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
        metadata = email.message_from_bytes(wheel.read(f"{info}/METADATA"))
    files = {p.relative_to(ROOT).as_posix() for p in (ROOT / "qlinear").rglob("*")
             if p.suffix in (".py", ".npz", ".toml", ".typed", ".js", ".css")}  # fmt: skip
    assert {name for name in names if not name.startswith(info)} == files
    assert {"qlinear/py.typed", "qlinear/samples.npz", "qlinear/explorer/view.js"} <= files
    assert metadata["Name"] == "qlinear" and metadata["Version"] == qlinear.__version__
    assert metadata["License-Expression"] == "Apache-2.0" and f"{info}/licenses/LICENSE" in names
    assert metadata["Author"] == "The qlinear authors" and metadata["Keywords"]
    assert metadata.get_payload().strip() == README.strip()
    url = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    assert f"Repository, {url}" in metadata.get_all("Project-URL")
    required = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert all(re.fullmatch(r"[\w-]+>=[\d.]+", line) for line in required), required


def test_every_import_of_the_library_is_declared():
    imported = set()
    for path in (ROOT / "qlinear").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            if isinstance(node, ast.ImportFrom):
                imported.add(node.module.split(".")[0])
    extras = PROJECT["optional-dependencies"]
    lines = PROJECT["dependencies"] + extras["fast"] + extras["study"] + extras["tflite"]
    declared = {re.match(r"[\w-]+", line)[0].replace("-", "_") for line in lines}
    declared = {"PIL" if name == "pillow" else name for name in declared}
    assert imported - set(sys.stdlib_module_names) - {"qlinear"} == declared


def test_the_sdist_is_the_repository(built, unpacked):
    """Its tests run: every file that git tracks is in it, and what it builds is the same wheel."""
    if (ROOT / ".git").exists():
        tracked = run(["git", "ls-files"], ROOT).stdout.splitlines()
        there = {p.relative_to(unpacked).as_posix() for p in unpacked.rglob("*") if p.is_file()}
        assert {name for name in tracked if (ROOT / name).exists()} <= there
    build(unpacked, unpacked / "dist", "-t", "wheel")
    (again,), (first,) = (unpacked / "dist").glob("*.whl"), built.glob("*.whl")
    with zipfile.ZipFile(again) as a, zipfile.ZipFile(first) as b:
        assert {n: a.read(n) for n in a.namelist()} == {n: b.read(n) for n in b.namelist()}
    tests = ["tests/test_qlinear_conv.py", "-k", "flipped or padding_with"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    done = run(command, unpacked, PYTHONPATH=str(unpacked))
    assert done.returncode == 0, done.stdout


def test_the_installed_library_is_not_the_repositorys(reader):
    code = "import qlinear, sys; print(qlinear.__file__); print(*map(__import__, ['study']))"
    done = run([reader / "env/bin/python", "-c", code], reader)
    assert Path(done.stdout.strip()).is_relative_to(reader / "env")
    assert "No module named 'study'" in done.stderr


def examples() -> list[str]:
    """README's command lines, as written."""
    blocks = re.findall(r"^```(?:sh|bash)?\n(.*?)^```", README, re.M | re.S)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith(("qlinear ", "python -m qlinear "))]


def test_readme_shows_every_command():
    names = {line.removeprefix("python -m ").split()[1] for line in examples()}
    assert names == {
        "inspect",
        "validate",
        "run",
        "explore",
        "explain",
        "vectors",
        "multipliers",
        "diagnose",
        "study",
    }
    assert any(line.startswith("python -m ") for line in examples())


@pytest.mark.parametrize("line", examples())
def test_readmes_commands_work_on_a_readers_model(line, reader):
    name, *arguments = shlex.split(line)
    done = run([reader / "env" / "bin" / name, *arguments], reader)
    assert done.returncode == 0, done.stderr
    if "validate" in arguments:
        whole = json.loads(done.stdout)["verdict"] if "--json" in arguments else done.stdout
        assert whole.splitlines()[-1].startswith("PASS")
    if "--out" in arguments:
        assert (reader / arguments[arguments.index("--out") + 1]).exists()


def test_readmes_statuses_are_the_commands():
    rows = re.findall(r"^\| (\d) \| ([^|]+) \| ([^|]+) \|$", README, re.M)
    said = re.findall(r"^  (\d) (\w+) +(.+)$", STATUS_TABLE, re.M)
    assert [(a, b.strip("* ").strip(), c.strip()) for a, b, c in rows] == said and len(said) == 4


def test_readmes_python_runs(reader):
    (code,) = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)
    done = run([reader / "env/bin/python", "-c", code], reader)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "PASS"


def test_the_api_page_names_what_exists():
    """Sphinx passes over a member that a module lacks."""
    page = (ROOT / "book" / "api.rst").read_text()
    names = re.findall(r"^.. auto(?!module)\w+:: (\S+)", page, re.M)
    for module, members in re.findall(r"^.. automodule:: (\S+)\n +:members: *(.*)$", page, re.M):
        names += [f"{module}.{member.strip()}" for member in members.split(",") if member.strip()]
    assert len(names) > 40
    for name in names:
        assert pkgutil.resolve_name(name.rpartition(".")[0] + ":" + name.rpartition(".")[2]).__doc__
    assert {f"qlinear.operators.{f.__module__.rpartition('.')[2]}.{f.__name__}"
            for (_, kind), f in OPERATORS.items() if kind != "Flatten"} <= set(names)  # fmt: skip


def test_the_docstrings_examples_run():
    names = [m.name for m in pkgutil.walk_packages(qlinear.__path__, "qlinear.")]
    results = [doctest.testmod(importlib.import_module(n)) for n in names if "__main__" not in n]
    assert sum(r.attempted for r in results) >= 3 and not any(r.failed for r in results)


def test_versions_agree():
    """CITATION.cff names the newest release; the library is that release or on the way past it."""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    log = (ROOT / "CHANGELOG.md").read_text()
    newest, date = re.search(r"^## (\d\S*) \((\S+)\)", log, re.M).groups()
    assert (str(cited["version"]), str(cited["date-released"])) == (newest, date)
    released = tuple(map(int, newest.split(".")))
    ours = tuple(map(int, re.match(r"(\d+)\.(\d+)\.(\d+)", qlinear.__version__).groups()))
    developed = ".dev" in qlinear.__version__
    assert ours > released if developed else ours == released
    assert developed == bool(re.search(r"^## Unreleased", log, re.M))


def test_the_samples_are_made_from_the_pictures(tmp_path):
    script, out = ROOT / "scripts" / "pack_samples.py", tmp_path / "samples.npz"
    done = run([sys.executable, script, "--out", out], tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    with np.load(out) as made:
        assert set(made.files) == {"images", "labels"}
        for array, packed in zip((made["images"], made["labels"]), load_samples(), strict=True):
            assert array.dtype == packed.dtype and (array == packed).all()


# --- ONNX Runtime's telemetry


def test_importing_the_library_leaves_no_file_in_the_home_folder(tmp_path):
    """Without ORT_DISABLE_TELEMETRY, ONNX Runtime 1.32 leaves a device id and an event file."""
    code = "import qlinear.ort as o; print(o.open_session(sys.argv[1]))"
    home = tmp_path / "home"
    home.mkdir()
    done = run([sys.executable, "-c", f"import sys; {code}", MODELS / "resnet8_int8.onnx"], ROOT,
               ORT_DISABLE_TELEMETRY=None, HOME=str(home), XDG_CACHE_HOME=None,
               PYTHONDONTWRITEBYTECODE="1")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list(home.rglob("*")) == []


def imports(code: str) -> list[str]:
    """The packages that code imports, in its order."""
    nodes = [n for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Import | ast.ImportFrom)]
    found = []
    for node in sorted(nodes, key=lambda n: (n.lineno, n.col_offset)):
        names = (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [a.name for a in node.names]
        )
        found += [name.split(".")[0] for name in names]
    return found


def sources() -> list[Path]:
    """A module of study/ or tools/ is entered by its package's __init__, so that counts."""
    files = [p for folder in ("scripts", "tests") for p in sorted((ROOT / folder).glob("*.py"))]
    packages = [ROOT / "study" / "__init__.py", ROOT / "tools" / "__init__.py"]
    return [*files, *packages, *sorted((ROOT / "notebooks").glob("*.ipynb"))]


@pytest.mark.parametrize("path", sources(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_nothing_imports_onnxruntime_before_qlinear(path):
    """``qlinear`` switches telemetry off before; ruff sorts onnxruntime behind our packages."""
    text = path.read_text()
    if path.suffix == ".ipynb":
        cells = [c for c in json.loads(text)["cells"] if c["cell_type"] == "code"]
        lines = [line for c in cells for line in "".join(c["source"]).splitlines()]
        text = "\n".join(re.sub(r"^(\s*)[!%].*", r"\1pass", line) for line in lines)
    ours = {"qlinear", "study", "tools", "conftest"}
    first = next((n for n in imports(text) if n in {*ours, "onnxruntime"}), None)
    assert first == "qlinear" if path.name == "__init__.py" else first != "onnxruntime"
