"""Symbols of small alphabets, coded as integer frequency tables say: the splat core's static rANS.

Tables are chosen symbol by symbol from what the decoder knows already (a channel, a group). They
are integers, so every machine writes and reads the same bytes (`cuda/cpu/symbol_coder.h`).
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import byref, c_void_p

import numpy as np

from ..errors import ClipError
from ..render.core_library import check, library
from .clip import DAMAGED_HINT
from .core_stream import INVALID_ARGUMENT, check_decoded, taken

MAX_TABLE_BITS = 16
MAX_TABLES = 1 << 16
MAX_TABLE_SYMBOLS = 1 << MAX_TABLE_BITS
MAX_TABLE_ENTRIES = 1 << 22
#: Tables sum to 2^TABLE_BITS where nothing else is asked for.
TABLE_BITS = 14


def frequency_table(counts: np.ndarray, bits: int = TABLE_BITS) -> np.ndarray:
    """Integer frequencies (S,) int64 that sum to 2^bits, in proportion to counts (S,) >= 0.

    What has a count gets a frequency of at least 1, what has none gets 0 (and cannot be coded).
    Raises ValueError where nothing was counted, or more symbols than 2^bits.
    """
    counts = np.asarray(counts, dtype=np.float64)
    present = counts > 0
    whole = 1 << bits
    if not present.any() or present.sum() > whole:
        raise ValueError(f"{int(present.sum())} symbols of {len(counts)} in 2^{bits}")
    exact = counts * (whole / counts.sum())
    table = np.where(present, np.maximum(np.floor(exact), 1), 0).astype(np.int64)
    missing = whole - int(table.sum())
    if missing > 0:
        # The largest remainders; their number is below that of the symbols.
        order = np.argsort(np.where(present, table - exact, np.inf), kind="stable")
        table[order[:missing]] += 1
    while missing < 0:
        # The minimum of 1 has taken too much: the most frequent pay, who feel it least.
        order = np.argsort(-table, kind="stable")
        order = order[table[order] > 1][:-missing]
        table[order] -= 1
        missing += len(order)
    return table


def encode_symbols(
    symbols: np.ndarray, tables: Sequence[np.ndarray], table_of_symbol: np.ndarray | None = None
) -> bytes:
    """symbols: (N,) integers, 0 <= symbol < len(its table). tables: integer frequencies, every one
    with the same sum 2^k, 1 <= k <= 16. table_of_symbol: (N,) numbers of tables; None: the first.

    Raises ValueError for tables that are none and for a symbol of frequency 0.
    """
    symbols = np.ascontiguousarray(symbols, dtype=np.int32)
    chosen = _chosen(table_of_symbol, len(symbols))
    flat, sizes, bits = _flat(tables)
    stream = c_void_p()
    result = library().peel4d_encode_symbols(
        symbols.ctypes.data,
        None if chosen is None else chosen.ctypes.data,
        len(symbols),
        flat.ctypes.data,
        sizes.ctypes.data,
        len(sizes),
        bits,
        byref(stream),
    )
    if result == INVALID_ARGUMENT:
        raise ValueError("a symbol that its table does not have, or tables that are none")
    check(result)
    return taken(stream)


def decode_symbols(
    data: bytes | memoryview,
    count: int,
    tables: Sequence[np.ndarray],
    table_of_symbol: np.ndarray | None,
    where: str,
) -> np.ndarray:
    """The (count,) int32 symbols in `data`, of the same tables as they were encoded with.

    Raises ClipError for a stream that no encoder has written (it must end with its last byte), or
    tables that are none, and MemoryError.
    """
    data = np.frombuffer(data, dtype=np.uint8)
    chosen = _chosen(table_of_symbol, count)
    try:
        flat, sizes, bits = _flat(tables)
    except ValueError as error:
        raise ClipError(f"no frequency tables ({error})", where=where, hint=DAMAGED_HINT) from error
    symbols = np.empty(count, dtype=np.int32)
    result = library().peel4d_decode_symbols(
        data.ctypes.data,
        len(data),
        None if chosen is None else chosen.ctypes.data,
        count,
        flat.ctypes.data,
        sizes.ctypes.data,
        len(sizes),
        bits,
        symbols.ctypes.data,
    )
    check_decoded(result, "symbols", where)
    return symbols


def _chosen(table_of_symbol: np.ndarray | None, count: int) -> np.ndarray | None:
    if table_of_symbol is None:
        return None
    chosen = np.ascontiguousarray(table_of_symbol, dtype=np.int32)
    if chosen.shape != (count,):
        raise ValueError(f"tables of {chosen.shape} symbols, {count} expected")
    return chosen


def _flat(tables: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, int]:
    """All frequencies, the sizes of the tables and the k of their sum. Raises ValueError."""
    sizes = np.array([len(table) for table in tables], dtype=np.int32)
    if not 1 <= len(sizes) <= MAX_TABLES or sizes.min() < 1 or sizes.max() > MAX_TABLE_SYMBOLS:
        raise ValueError(f"{len(sizes)} tables of {sizes.tolist()[:4]} symbols")
    if int(sizes.sum(dtype=np.int64)) > MAX_TABLE_ENTRIES:
        raise ValueError("too many frequencies")
    flat = np.concatenate([np.asarray(table, dtype=np.int64) for table in tables])
    total = int(flat[: sizes[0]].sum())
    bits = max(total, 1).bit_length() - 1
    if total != 1 << bits or not 1 <= bits <= MAX_TABLE_BITS or flat.min() < 0:
        raise ValueError(f"frequencies that sum to {total}, not to a power of 2 up to 2^16")
    if flat.max() > total:
        raise ValueError("a frequency above the sum")
    return flat.astype(np.uint32), sizes, bits
