# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds a wheel of pycuda, which its authors do not offer: build/wheels/pycuda-*.whl.

usage: python tools/build_pycuda.py [--output build/wheels] [--python python3.11]

Needs a C++ compiler, the CUDA toolkit's headers (beside nvcc) and pip with access to a package
index; no GPU and no driver. Without OpenGL and cuRAND the driver's libcuda is all of CUDA that it
loads.
"""

from __future__ import annotations

import argparse
import runpy
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VERSION = "2026.1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "wheels")
    parser.add_argument("--python", default=sys.executable, help="interpreter the wheel is for")
    options = parser.parse_args()
    output = options.output.resolve()
    nvcc = runpy.run_path(str(ROOT / "cuda" / "fatbin.py"))["find_nvcc"]()
    if nvcc is None:
        sys.exit("build_pycuda: needs the CUDA toolkit, and there is no nvcc")
    cuda_root = toolkit(nvcc)
    pip = [options.python, "-m", "pip", "--quiet"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        download = ["download", "--no-deps", "--no-binary=pycuda", f"--dest={folder}"]
        run([*pip, *download, f"pycuda=={VERSION}"])
        with tarfile.open(next(folder.glob("pycuda-*.tar.gz"))) as archive:
            archive.extractall(folder, filter="data")
        source = folder / f"pycuda-{VERSION}"
        # The linker wants a libcuda that has something to offer; the driver brings the real one.
        stub = folder / "stub.c"
        stub.write_text("void cuInit(void) {}\n")
        link = ["gcc", "-shared", "-Wl,-soname,libcuda.so.1", str(stub)]
        run([*link, "-o", str(folder / "libcuda.so")])
        settings = {
            "CUDA_ROOT": str(cuda_root),
            "CUDA_ENABLE_GL": False,
            "CUDA_ENABLE_CURAND": False,
            "CUDADRV_LIB_DIR": [str(folder)],
            "CUDADRV_LIBNAME": ["cuda"],
            "USE_SHIPPED_BOOST": True,
        }
        lines = [f"{name} = {value!r}" for name, value in settings.items()]
        (source / "siteconf.py").write_text("\n".join(lines) + "\n")
        output.mkdir(parents=True, exist_ok=True)
        run([*pip, "wheel", "--no-deps", f"--wheel-dir={output}", str(source)])
    print(next(output.glob(f"pycuda-{VERSION}-*.whl")))


def toolkit(nvcc: str) -> Path:
    """The folder with include/cuda.h that belongs to an nvcc, which may be a script elsewhere."""
    plan = subprocess.run([nvcc, "--dryrun", "x.cu"], capture_output=True, text=True).stderr
    stated = [line.partition("=")[2] for line in plan.splitlines() if line.startswith("#$ TOP=")]
    for folder in (*stated, Path(nvcc).resolve().parent.parent, "/usr/local/cuda"):
        if (Path(folder) / "include" / "cuda.h").is_file():
            return Path(folder).resolve()
    sys.exit(f"build_pycuda: found {nvcc}, but no include/cuda.h that belongs to it")


def run(command: list[str]) -> None:
    if subprocess.run(command).returncode != 0:
        sys.exit(f"build_pycuda: this command failed: {' '.join(command)}")


if __name__ == "__main__":
    main()
