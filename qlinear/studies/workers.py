"""Who does the work, in which order, and what is kept of it.

A task is a setting on a batch. Its counts go into a journal as soon as they are there, a line each,
so that a study that was stopped goes on where it was. Tasks run in this process, or by Dask: on
workers of this machine, or on a cluster whose scheduler has an address. Results do not say who
computed them; a task whose worker is lost is done again by another.
"""

import json
import logging
import os
import signal
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from qlinear.errors import UnusableInput
from qlinear.files import check_folder, write_text
from qlinear.studies.measure import COUNTS, Batch, Job, measured, packed, versions
from qlinear.studies.settings import Setting

JOURNAL = "journal.txt"
INSTALL = "Dask's distributed is not installed: pip install 'qlinear[study]', or --workers 0"
TRIES = 5  # of a task whose worker is lost
# Dask's errors, by name, of a task whose worker is gone
LOST = "KilledWorker", "FutureCancelledError", "FuturesCancelledError", "CancelledError"
PATIENCE = 60  # seconds until the first worker of a cluster must be there
LOSS = 5  # seconds that a scheduler may be gone in the middle

Place = tuple[str, int, int]  # a setting's key, the first image, and the one after the last


@dataclass(frozen=True)
class Task:
    """A setting on a batch; its inputs are taken from the data when its turn comes."""

    setting: Setting
    start: int
    stop: int

    @property
    def place(self) -> Place:
        return self.setting.key, self.start, self.stop


# --- what is kept


@contextmanager
def journal(folder: Path, header: dict) -> Iterator[tuple[dict[Place, dict], Callable]]:
    """What a study has found so far, and a function that adds to it.

    A line is the CRC-32 of a JSON text, and the text. The last one may be cut, by a crash; it is
    dropped, and its task is done again.

    Args:
        header: what all of the results rest on, the first line.

    Raises:
        UnusableInput: the folder holds something else, a study of something else, or a damaged
            one, or another process writes to it.
    """
    path, made = folder / JOURNAL, not folder.exists()
    if path.exists() and not path.is_file():
        raise UnusableInput(f"{path}: no file; name another folder with --out")
    if path.exists():
        with _opened(path, folder, header) as (found, add):
            yield found, add
        return
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, _line(header))
    found = {}
    try:
        with _opened(path, folder, header) as (found, add):
            yield found, add
    finally:
        if not found:  # it ended before it found anything: nothing is left of it
            path.unlink(missing_ok=True)
            if made:
                with suppress(OSError):
                    folder.rmdir()


@contextmanager
def _opened(path: Path, folder: Path, header: dict) -> Iterator[tuple[dict[Place, dict], Callable]]:
    with path.open("r+b") as file:
        _lock(file, folder)
        content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        first, *lines = whole.splitlines(keepends=True) or [b""]
        _check_header(_record(first), header, path)
        found: dict[Place, dict] = {}
        for number, line in enumerate(lines, 2):
            result = _result(_record(line))
            if result is not None:
                found[result[0]] = result[1]
            elif number == len(lines) + 1:  # written in part
                whole = whole.removesuffix(line)
            else:
                raise UnusableInput(
                    f"{path}: line {number} is damaged; name another folder with --out"
                )
        file.seek(len(whole))
        file.truncate()

        def add(place: Place, counts: dict) -> None:
            found[place] = counts
            setting, start, stop = place
            record = {"setting": setting, "start": start, "stop": stop, "counts": counts}
            file.write(_line(record).encode())
            file.flush()

        yield found, add
        os.fsync(file.fileno())


def _check_header(was: dict | None, header: dict, path: Path) -> None:
    """Refuse a journal of something else; ``was`` is its first line."""
    if was is None:
        raise UnusableInput(f"{path}: no journal of a study; name another folder with --out")
    for key in [*header, *(key for key in was if key not in header)]:
        then, now, name = was.get(key), header.get(key), key
        if then == now:
            continue
        if isinstance(then, dict) and isinstance(now, dict):  # name what differs in it
            inner = next(k for k in {**now, **then} if then.get(k) != now.get(k))
            then, now, name = then.get(inner), now.get(inner), f"{key}: {inner}"
        raise UnusableInput(
            f"{path.parent}: holds a study with another {name} ({_short(then)}, now "
            f"{_short(now)}); results are never mixed: name another folder with --out, or remove it"
        )


def _short(value: object) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _line(record: dict) -> str:
    text = json.dumps(record, sort_keys=True)
    return f"{zlib.crc32(text.encode()):08x} {text}\n"


def _record(line: bytes) -> dict | None:
    """What a line holds; None where it is none of ours, or damaged."""
    check, _, text = line.removesuffix(b"\n").partition(b" ")
    if f"{zlib.crc32(text):08x}".encode() != check:
        return None
    with suppress(ValueError, RecursionError):
        found = json.loads(text)
        return found if isinstance(found, dict) else None
    return None


def _result(record: dict | None) -> tuple[Place, dict] | None:
    """A task's place and counts; None where something is missing, or is no count."""
    if record is None:
        return None
    counts, setting = record.get("counts"), record.get("setting")
    if not isinstance(counts, dict) or not isinstance(setting, str):
        return None
    differing = counts.get("differing", {})
    if not isinstance(differing, dict):
        return None
    place = record.get("start"), record.get("stop")
    numbers = [*place, *(counts.get(name) for name in COUNTS)]
    for pair in differing.values():
        if not isinstance(pair, list) or len(pair) != 2:
            return None
        numbers += pair
    if not all(type(number) is int and number >= 0 for number in numbers):
        return None
    return (setting, *place), counts


def _lock(file, folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # not on this system
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise UnusableInput(f"{folder}: another study is writing to it") from None


# --- who does it


def distributed():
    """Dask's distributed.

    Raises:
        UnusableInput: it is not installed.
    """
    try:
        import distributed
    except ImportError:
        raise UnusableInput(INSTALL) from None
    return distributed


def there() -> bool:
    """Whether Dask's distributed is installed."""
    with suppress(UnusableInput):
        return bool(distributed())
    return False


def here(
    job: Job, tasks: Iterable[Task], batch_of: Callable[[int, int], Batch]
) -> Iterator[tuple[Place, dict]]:
    """The tasks one after the other, in this process."""
    content = packed(job)
    batch = None
    for task in tasks:
        if batch is None or (batch.start, batch.stop) != (task.start, task.stop):
            batch = batch_of(task.start, task.stop)
        counts, _ = measured(content, task.setting, batch)
        yield task.place, counts


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Processes that are started here are not told of Ctrl-C: this one ends them, in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


@contextmanager
def _quiet() -> Iterator[None]:
    """Dask says at length that a scheduler is gone; one line of ours says it."""
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client", "asyncio")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def client_of(workers: int, scheduler: str):
    """A client of a scheduler, or of as many processes on this machine.

    Raises:
        UnusableInput: the scheduler does not answer, or its workers are not like this process.
    """
    dask = distributed()
    # one thread of BLAS each: the processes are what runs in parallel
    threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    if not scheduler:
        with _uninterrupted():
            cluster = dask.LocalCluster(
                n_workers=workers, threads_per_worker=1, processes=True, memory_limit=0,
                dashboard_address=None, env=threads, silence_logs="CRITICAL",
            )  # fmt: skip
        with cluster, dask.Client(cluster) as client:
            yield client
        return
    with _quiet():
        try:
            client = dask.Client(scheduler, timeout=PATIENCE)
        except (OSError, ValueError) as error:
            raise UnusableInput(f"--scheduler {scheduler}: {error}") from None
        with client:
            try:
                client.wait_for_workers(1, timeout=PATIENCE)
            except TimeoutError:
                raise UnusableInput(f"--scheduler {scheduler}: no worker within a minute") from None
            yield client


def by_dask(
    client, job: Job, tasks: Iterable[Task], batch_of: Callable[[int, int], Batch]
) -> Iterator[tuple[Place, dict]]:
    """The tasks by the workers of a client, in the order in which they are ready.

    The job is sent to the workers once, a batch when the first task needs it, as bytes: no files
    are shared. What a lost worker had computed is in the journal; what it had begun, and what it
    alone held, is sent again.

    Raises:
        UnusableInput: a worker cannot do the work, or lost it too often, or the scheduler is lost.
    """
    try:
        yield from _by_dask(client, job, tasks, batch_of)
    except OSError as error:  # of the connection: a task's own errors are told apart
        raise _gone(error) from None


def _gone(error: object) -> UnusableInput:
    return UnusableInput(
        f"the scheduler is lost ({error}); what is finished is kept: start one, and run again to "
        "go on"
    )


def _require_scheduler(client) -> None:
    """Give a scheduler that is gone a few seconds; Dask itself would wait for minutes."""
    end = time.monotonic() + LOSS
    while client.status != "running":
        if time.monotonic() > end or client.status in ("closing", "closed"):
            raise _gone(f"away for {LOSS} seconds")
        time.sleep(0.1)


def _by_dask(
    client, job: Job, tasks: Iterable[Task], batch_of: Callable[[int, int], Batch]
) -> Iterator[tuple[Place, dict]]:
    dask = distributed()
    content, ours = packed(job), versions()
    _check(client, ours)
    tasks, tries = iter(tasks), {}
    sent = _Sent(client, content, batch_of)
    running: dict = {}
    done = dask.as_completed()

    def submit(task: Task) -> None:
        tries[task.place] = tries.get(task.place, 0) + 1
        if tries[task.place] > TRIES:
            raise UnusableInput(
                f"{task.setting.title}: {TRIES} workers were lost; is memory short?"
            )
        _require_scheduler(client)
        try:
            future = client.submit(measured, *sent.of(task), pure=False)
        except (OSError, RuntimeError) as error:
            raise _gone(error) from None
        running[future] = task
        done.add(future)

    def fill() -> None:
        threads = sum(client.nthreads().values()) if not running else fill.threads
        fill.threads = threads
        while len(running) < max(4 * threads, 8):
            task = next(tasks, None)
            if task is None:
                return
            submit(task)

    fill.threads = 1
    fill()
    for future in done:
        task = running.pop(future)
        result = _result_of(future, task)
        if result is not None:
            counts, theirs = result
            if theirs != ours:
                raise _unlike(theirs, ours)
            sent.finished(task)
            yield task.place, counts
        else:  # its worker is lost, or what that alone held
            sent.forget()
            submit(task)
        if not running:
            fill.threads = max(sum(client.nthreads().values()), 1)
        fill()


class _Sent:
    """What the workers were sent, and by which tasks it is still needed."""

    def __init__(self, client, content: bytes, batch_of: Callable[[int, int], Batch]):
        self.client, self.content, self.batch_of = client, content, batch_of
        self.job = None
        self.batches: dict[tuple[int, int], object] = {}
        self.needed: dict[tuple[int, int], set[Place]] = {}

    def of(self, task: Task) -> tuple:
        """Job, setting and batch, the first and the last as futures."""
        place = task.start, task.stop
        if self.job is None:
            self.job = self.client.scatter(self.content, broadcast=True, hash=False)
        if place not in self.batches:
            self.batches[place] = self.client.scatter(self.batch_of(*place), hash=False)
        self.needed.setdefault(place, set()).add(task.place)
        return self.job, task.setting, self.batches[place]

    def finished(self, task: Task) -> None:
        place = task.start, task.stop
        self.needed[place].discard(task.place)
        if not self.needed[place]:  # it is sent again if a task comes for it after all
            self.batches.pop(place, None)

    def forget(self) -> None:
        """Send all again: a worker is lost, and perhaps what it alone held."""
        self.job = None
        self.batches.clear()


def _result_of(future, task: Task) -> tuple[dict, dict] | None:
    """What a task found, and with which versions; None where its worker is lost.

    Raises:
        UnusableInput: the task failed by itself.
    """
    if future.status == "error" and not _lost(future.exception()):
        raise _told(future.exception(), task) from None
    if future.status != "finished":
        return None
    try:
        return future.result()
    except Exception as error:
        if _lost(error):
            return None
        raise


def _lost(error: BaseException) -> bool:
    """Whether a task failed because of its worker, and not by itself."""
    return type(error).__name__ in LOST


def _told(error: BaseException, task: Task) -> UnusableInput:
    if isinstance(error, UnusableInput):
        return error
    lines = str(error).strip().splitlines() or [""]
    return UnusableInput(f"{task.setting.title}: {type(error).__name__}: {lines[0][:300]}")


def _check(client, ours: dict) -> None:
    """Refuse workers that lack the library or have other versions."""
    try:
        found = client.run(versions)
    except Exception as error:
        raise UnusableInput(
            f"a worker cannot run qlinear ({type(error).__name__}: {error}); install this version"
        ) from None
    for theirs in found.values():
        if theirs != ours:
            raise _unlike(theirs, ours)


def _unlike(theirs: dict, ours: dict) -> UnusableInput:
    name = next(k for k in ours if theirs.get(k) != ours[k])
    return UnusableInput(f"a worker has {name} {theirs.get(name)}, this process {ours[name]}; "
                         "results are never mixed: install one version")  # fmt: skip
