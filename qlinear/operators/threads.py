"""Share the images of a batch among threads, with BLAS held to one thread in each."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Lock

THREADS = min(os.cpu_count() or 1, 4)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS)


if hasattr(os, "register_at_fork"):  # a forked process has none of its parent's threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


@cache
def _blas():
    """BLAS's threads; None without threadpoolctl, which one of our scripts does without."""
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return None
    return ThreadpoolController()


_sharing = Lock()


def share(work: Callable[[int, int], None], count: int, *, small: bool = False) -> None:
    """Call ``work(first, last)`` for equal parts of ``range(count)``, each in its own thread.

    A caller that comes while another is at it does all of its work itself.

    Args:
        small: so little work that BLAS is held to one thread even where there is one part: its
            others gain little, and cost much where another program has the cores.
    """
    parts = min(THREADS, count)
    if (parts < 2 and not small) or _blas() is None or not _sharing.acquire(blocking=False):
        return work(0, count)
    cuts = [count * part // parts for part in range(parts + 1)]
    try:
        with _blas().limit(limits=1, user_api="blas"):  # a thread of ours runs BLAS in one thread
            others = [_pool().submit(work, *cuts[part : part + 2]) for part in range(1, parts)]
            work(*cuts[:2])
            for other in others:
                other.result()
    finally:
        _sharing.release()
