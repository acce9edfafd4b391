"""Keeps NumPy's BLAS on one thread while a small model runs.

Products of a few thousand numbers gain nothing from more threads, and on a busy machine the threads wait for each
other: an answer took ten times as long. Only OpenBLAS, which NumPy's wheels bring along, is told; others are left as
they are.
"""

import ctypes
import importlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TypeAlias

__all__ = ["one_blas_thread"]

_Controls: TypeAlias = tuple[Callable[[], int], Callable[[int], None]]
_NAMES = ("scipy_openblas_{}_num_threads64_", "scipy_openblas_{}_num_threads", "openblas_{}_num_threads")
_lock = threading.Lock()
_users = 0
_before = 1


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Sets the number of OpenBLAS threads to one until the last user leaves; the number is one per process."""
    controls = _controls()
    if controls is None:
        yield
        return
    _enter(controls)
    try:
        yield
    finally:
        _leave(controls)


def _enter(controls: _Controls) -> None:
    global _users, _before
    get, put = controls
    with _lock:
        _users += 1
        if _users == 1:
            _before = get()
            put(1)


def _leave(controls: _Controls) -> None:
    global _users
    with _lock:
        _users -= 1
        if _users == 0:
            controls[1](_before)


@cache
def _controls() -> _Controls | None:
    """Returns how to read and set the number of threads, or None when NumPy's BLAS is no OpenBLAS."""
    for module in ("numpy._core._multiarray_umath", "numpy.core._multiarray_umath"):
        try:
            library = ctypes.CDLL(importlib.import_module(module).__file__)
        except (ImportError, OSError):
            continue
        for name in _NAMES:
            try:
                get, put = library[name.format("get")], library[name.format("set")]
            except AttributeError:
                continue
            return get, put
    return None
