"""Symbols and the frequency tables that they are coded with, as one part of a chunk's payload.

The tables come first: per context the frequencies of all symbols as u16, compressed.
"""

from __future__ import annotations

import numpy as np

from ..errors import ClipError
from .clip import DAMAGED_HINT
from .compression import Compressor, Decompressor
from .fields import Fields
from .symbol_coder import MAX_TABLE_ENTRIES, decode_symbols, encode_symbols, frequency_table

#: Tables sum to 2^12, or 2^15 where there are many symbols: a table costs more than it gains soon.
_FEW_SYMBOLS, _COARSE_BITS, _FINE_BITS = 1024, 12, 15
MAX_ALPHABET = 1 << _FINE_BITS


def encode_stream(
    symbols: np.ndarray, contexts: np.ndarray, context_count: int
) -> tuple[dict[str, object], bytes]:
    """symbols: (N,) integers >= 0. contexts: (N,) what the decoder knows of each, below
    context_count. Returns what `decode_stream` wants to find in a header, and the payload."""
    symbols = np.asarray(symbols, dtype=np.int64)
    if len(symbols) == 0:
        return {"alphabet": 0, "tables": 0, "bytes": 0}, b""
    alphabet = int(symbols.max()) + 1
    bits = _table_bits(alphabet)
    cells = np.asarray(contexts, dtype=np.int64) * alphabet + symbols
    counts = np.bincount(cells, minlength=context_count * alphabet)
    counts = counts.reshape(context_count, alphabet)
    counts[counts.sum(axis=1) == 0, 0] = 1  # what never comes costs nothing
    tables = [frequency_table(row, bits) for row in counts]
    stored = Compressor().compress(np.concatenate(tables).astype("<u2").tobytes())
    payload = stored + encode_symbols(symbols, tables, contexts)
    return {"alphabet": alphabet, "tables": len(stored), "bytes": len(payload)}, payload


def decode_stream(
    fields: Fields,
    payload: memoryview,
    count: int,
    contexts: np.ndarray,
    context_count: int,
    compression: str,
) -> np.ndarray:
    """The (count,) symbols of a part of a payload, each below "alphabet". Raises ClipError."""
    alphabet = fields.integer("alphabet", 0, min(MAX_ALPHABET, MAX_TABLE_ENTRIES // context_count))
    size = fields.integer("tables", 0, len(payload))
    if count == 0 and alphabet == 0 and not payload:
        return np.zeros(0, dtype=np.int32)
    if alphabet == 0:
        raise fields.fail("alphabet", "above 0")
    where = fields.where
    raw = Decompressor(compression, where).decompress(payload[:size], 2 * alphabet * context_count)
    tables = np.frombuffer(raw, "<u2").astype(np.int64).reshape(context_count, alphabet)
    if (tables.sum(axis=1) != 1 << _table_bits(alphabet)).any():
        raise ClipError("the frequency tables are damaged", where=where, hint=DAMAGED_HINT)
    return decode_symbols(payload[size:], count, list(tables), contexts, where)


def _table_bits(alphabet: int) -> int:
    return _COARSE_BITS if alphabet <= _FEW_SYMBOLS else _FINE_BITS
