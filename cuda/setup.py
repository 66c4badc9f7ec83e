# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds the splat core into a wheel that serves every Python: peel4d_core-*-py3-none-<platform>.

Needs a C++17 compiler (g++ or clang++, or $CXX) and nothing else: `pip install ./cuda`. Where there
is nvcc the wheel gets the GPU's kernels too (fatbin.py); $PEEL4D_CUDA=0 leaves them out.

With AddressSanitizer and UBSan, outside of any installation, and the tests on top of it:

    cd cuda && PEEL4D_SANITIZE=1 python setup.py build_py --build-lib /tmp/sanitized
    LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libstdc++.so)" \\
        ASAN_OPTIONS=detect_leaks=0 PEEL4D_CORE=/tmp/sanitized/peel4d_core/libpeel4d.so \\
        python -m pytest tests/test_core.py tests/test_peel.py -k "not memory and not gpu"
"""

import os
import platform
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
INIT = (HERE / "peel4d_core" / "__init__.py").read_text()
VERSION = re.search(r'__version__ = "(.+)"', INIT)[1]
FLAGS = ["-std=c++17", "-O3", "-fPIC", "-ffunction-sections", "-fvisibility=hidden"]
FLAGS += ["-Wall", "-Wextra", f'-DPEEL4D_VERSION="{VERSION}"']
# No contraction: the baseline and the AVX2 copy of the arithmetic shall agree bit by bit. The other
# two let comparisons become vector masks and change no result.
FLAGS += ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"]
# Partial redundancy elimination puts branches into loops that could become vector code.
KERNEL_FLAGS = ["-fno-tree-pre"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g"]


def compiler() -> str:
    for name in (os.environ.get("CXX"), "g++", "clang++"):
        if name and shutil.which(name):
            return name
    sys.exit(
        "peel4d-core needs a C++17 compiler and found none. Install one and try again: "
        "apt-get install g++ (Debian, Ubuntu), xcode-select --install (macOS)"
    )


def build(target: Path) -> None:
    """Compile and link the library to `target`."""
    cxx = compiler()
    flags = FLAGS + (SANITIZE if os.environ.get("PEEL4D_SANITIZE") else [])
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    units = [("kernels_baseline", "kernels.cpp", ["-DPEEL_ISA=baseline"])]
    if x86:
        avx2 = ["-mavx2", "-mfma"]
        avx512 = [*avx2, "-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw"]
        avx512.append("-mprefer-vector-width=512")
        units.append(("kernels_avx2", "kernels.cpp", ["-DPEEL_ISA=avx2", *avx2]))
        units.append(("kernels_avx512", "kernels.cpp", ["-DPEEL_ISA=avx512", *avx512]))
    common = ["-DPEEL_WITH_X86"] if x86 else []
    sources = ("depth_sort", "frame", "gaussians", "peel4d", "picture_loss", "point_codec")
    sources += ("symbol_coder", "thread_pool", "tile_lists")
    units += [(name, f"{name}.cpp", common) for name in sources]
    with tempfile.TemporaryDirectory() as folder:
        objects = []
        running = []
        for name, source, extra in units:
            extra = extra + KERNEL_FLAGS if source == "kernels.cpp" else extra
            objects.append(str(Path(folder) / f"{name}.o"))
            command = [cxx, *flags, *extra, "-c", str(HERE / "cpu" / source), "-o", objects[-1]]
            running.append((command, subprocess.Popen(command)))
        for command, process in running:
            if process.wait() != 0:
                sys.exit(f"peel4d-core: this command failed: {' '.join(command)}")
        link = [cxx, "-shared", "-pthread", *objects, "-o", str(target)]
        if sys.platform.startswith("linux"):
            # The C++ runtime goes in, so that the wheel runs beside any other libstdc++; only the C
            # interface is visible, and what is not needed (of a newer glibc, too) stays out.
            symbols = Path(folder) / "symbols"
            symbols.write_text("{ global: peel4d_*; local: *; };")
            link += [f"-Wl,--version-script={symbols}", "-Wl,--gc-sections", "-Wl,-z,relro,-z,now"]
            if not os.environ.get("PEEL4D_SANITIZE"):
                link += ["-static-libstdc++", "-static-libgcc"]
        if os.environ.get("PEEL4D_SANITIZE"):
            link += SANITIZE
        subprocess.run(link, check=True)


class BuildWithCore(build_py):
    def run(self) -> None:
        super().run()
        suffix = {"win32": "dll", "darwin": "dylib"}.get(sys.platform, "so")
        folder = Path(self.build_lib) / "peel4d_core"
        folder.mkdir(parents=True, exist_ok=True)
        build(folder / f"libpeel4d.{suffix}")
        if os.environ.get("PEEL4D_CUDA") != "0" and not os.environ.get("PEEL4D_SANITIZE"):
            runpy.run_path(str(HERE / "fatbin.py"))["build_fatbin"](folder / "peel4d.fatbin")


class PlatformWheel(bdist_wheel):
    def get_tag(self) -> tuple[str, str, str]:
        """One build for every Python: the library has a C interface and no Python in it."""
        tag = super().get_tag()[2]
        library = Path(self.bdist_dir or "") / "peel4d_core" / "libpeel4d.so"
        if tag.startswith("linux") and library.is_file():
            # manylinux names the glibc that is needed at least: the newest symbol version in use.
            versions = re.findall(rb"GLIBC_(\d+)\.(\d+)", library.read_bytes())
            if versions:
                major, minor = max((int(a), int(b)) for a, b in versions)
                tag = f"manylinux_{major}_{minor}_{tag.removeprefix('linux_')}"
        return ("py3", "none", tag)


class BinaryDistribution(Distribution):
    def has_ext_modules(self) -> bool:
        return True


setup(
    distclass=BinaryDistribution,
    cmdclass={"build_py": BuildWithCore, "bdist_wheel": PlatformWheel},
)
