"""Starts the worker from wherever this file lies: `python engine/worker/launch.py ARGUMENTS`.

A Blender extension is a folder of files, not an installed package, and its parent folder is full
of other people's extensions, which must not become importable. So the package is made known to
this one process under its name, without a search path and whatever its folder is called. The
interpreter may be any that has torch; nothing is written beside the files.
"""

import importlib.util
import runpy
import sys
from pathlib import Path

PACKAGE = "peel4d"


def _make_known() -> None:
    folder = Path(__file__).resolve().parents[2]
    spec = importlib.util.spec_from_file_location(
        PACKAGE, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    package = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = package
    spec.loader.exec_module(package)


if __name__ == "__main__":
    # Python puts the folder of a script first; the modules beside this one are no top-level ones.
    here = str(Path(__file__).resolve().parent)
    sys.path[:] = [entry for entry in sys.path if entry and str(Path(entry).resolve()) != here]
    sys.dont_write_bytecode = True
    _make_known()
    runpy.run_module(f"{PACKAGE}.engine.worker", run_name="__main__", alter_sys=True)
