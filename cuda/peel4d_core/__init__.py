# SPDX-License-Identifier: GPL-3.0-or-later
"""The splat core of Peel4D as a file: one shared library with a C interface, no Python in it."""

from pathlib import Path

__version__ = "0.1.0"


def library_path() -> str:
    """Where the shared library lies. Raises ImportError if this package was not built."""
    found = sorted(Path(__file__).parent.glob("libpeel4d.*"))
    if not found:
        raise ImportError("peel4d_core holds no library; build it with: pip install ./cuda")
    return str(found[0])
