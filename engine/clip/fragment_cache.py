"""The fragments of an open clip that were used last, for any thread."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class FragmentCache(Generic[T]):
    """Keeps the last results of `load(index)`.

    Threads that want the same one wait for the first of them, and get its error if it fails; the
    next who asks tries again. load must not call this cache.
    """

    def __init__(self, load: Callable[[int], T], size: int = 2) -> None:
        self._load, self._size = load, size
        self._lock = threading.Lock()
        self._known: OrderedDict[int, Future[T]] = OrderedDict()

    def get(self, index: int) -> T:
        with self._lock:
            future = self._known.get(index)
            first = future is None
            if future is None:
                future = self._known[index] = Future()
            self._known.move_to_end(index)
            while len(self._known) > self._size:
                self._known.popitem(last=False)  # who waits for it has it still
        if first:
            try:
                future.set_result(self._load(index))
            except BaseException as error:
                with self._lock:
                    if self._known.get(index) is future:
                        del self._known[index]
                future.set_exception(error)
        return future.result()

    def clear(self) -> None:
        with self._lock:
            self._known.clear()
