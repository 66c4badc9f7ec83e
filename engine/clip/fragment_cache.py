"""The fragments of a clip that were used last, for any thread."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from .fragment import FieldCodec, FieldFragment

T = TypeVar("T")
#: (number of a member) -> its data, and where that is.
ReadMember = Callable[[int], tuple[bytes, str]]


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


class DecodedFragments:
    """The fields of a clip, decoded when they are asked for.

    fragment, base: read members. base_of: (number of a fragment) -> that of its base, or None.
    """

    def __init__(
        self,
        codec: FieldCodec,
        fragment: ReadMember,
        base: ReadMember,
        base_of: Callable[[int], int | None],
    ) -> None:
        self._codec, self._base_of = codec, base_of
        self._read_fragment = fragment
        self._fragments = FragmentCache(self._decode)
        self._bases = FragmentCache(lambda number: codec.base(*base(number)))

    def get(self, index: int) -> FieldFragment:
        """The field of fragment `index`. Raises ClipError."""
        return self._fragments.get(index)

    def clear(self) -> None:
        self._fragments.clear()
        self._bases.clear()

    def _decode(self, index: int) -> FieldFragment:
        number = self._base_of(index)
        known = number is not None and self._codec.base is not None
        data, where = self._read_fragment(index)
        return self._codec.fragment(data, self._bases.get(number) if known else None, where)
