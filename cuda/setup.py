# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds the splat core into a wheel that serves every Python: peel4d_core-*-py3-none-<platform>.

Needs a C++17 compiler (g++ or clang++, or $CXX) and nothing else. PEEL4D_SANITIZE=1 builds with
AddressSanitizer and UBSan instead.
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
VERSION = "0.1.0"
# No contraction: the baseline and the AVX2 copy of the arithmetic shall agree bit by bit.
FLAGS = ["-std=c++17", "-O3", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
FLAGS += ["-fvisibility=hidden", "-Wall", "-Wextra", f'-DPEEL4D_VERSION="{VERSION}"']
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
        units.append(("kernels_avx2", "kernels.cpp", ["-DPEEL_ISA=avx2", "-mavx2", "-mfma"]))
    common = ["-DPEEL_WITH_AVX2"] if x86 else []
    units += [(name, f"{name}.cpp", common) for name in ("frame", "peel4d", "thread_pool")]
    with tempfile.TemporaryDirectory() as folder:
        objects = []
        running = []
        for name, source, extra in units:
            objects.append(str(Path(folder) / f"{name}.o"))
            command = [cxx, *flags, *extra, "-c", str(HERE / "cpu" / source), "-o", objects[-1]]
            running.append((command, subprocess.Popen(command)))
        for command, process in running:
            if process.wait() != 0:
                sys.exit(f"peel4d-core: this command failed: {' '.join(command)}")
        link = [cxx, "-shared", "-pthread", *objects, "-o", str(target)]
        if sys.platform.startswith("linux"):
            # The C++ runtime goes in, so that the wheel runs beside any other libstdc++.
            link += ["-Wl,--exclude-libs,ALL", "-Wl,-z,relro,-z,now"]
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


class PlatformWheel(bdist_wheel):
    def get_tag(self) -> tuple[str, str, str]:
        """One build for every Python: the library has a C interface and no Python in it."""
        return ("py3", "none", super().get_tag()[2])


class BinaryDistribution(Distribution):
    def has_ext_modules(self) -> bool:
        return True


setup(
    distclass=BinaryDistribution,
    cmdclass={"build_py": BuildWithCore, "bdist_wheel": PlatformWheel},
)
