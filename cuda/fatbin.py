# SPDX-License-Identifier: GPL-3.0-or-later
"""Compiles the CUDA kernels to one file for all GPUs, where nvcc is at hand.

python fatbin.py build/peel4d.fatbin
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).resolve().parent / "gpu" / "kernels.cu"
#: Machine code: Turing, Ampere (data centre, desktop), Ada, Hopper, Blackwell (data centre,
#: desktop). It runs on later GPUs of the same major number, too.
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
#: No fused multiply-add but where the source says so: the CPU core's results, bit by bit.
FLAGS = ["-std=c++17", "-O3", "-fmad=false"]


def find_nvcc() -> "str | None":
    """$NVCC, that of $CUDA_HOME or $CUDA_PATH, the one on the path, or the usual place."""
    candidates = [os.environ.get("NVCC")]
    candidates += [
        str(Path(os.environ[name]) / "bin" / "nvcc")
        for name in ("CUDA_HOME", "CUDA_PATH")
        if os.environ.get(name)
    ]
    candidates += ["nvcc", "/usr/local/cuda/bin/nvcc"]
    return next((found for name in candidates if name and (found := shutil.which(name))), None)


def architectures(nvcc: str) -> "list[int]":
    """Those that we want and this nvcc knows."""
    listed = subprocess.run(
        [nvcc, "--list-gpu-code"], check=True, capture_output=True, text=True
    ).stdout
    known = {int(number) for number in re.findall(r"^sm_(\d+)$", listed, re.MULTILINE)}
    return [number for number in ARCHITECTURES if number in known]


def build_fatbin(target: Path) -> bool:
    """Compile the kernels to `target`; False, with the reason printed, where that cannot be done.

    The two newest architectures are added as PTX, which the driver translates for GPUs between
    and after them.
    """
    nvcc = find_nvcc()
    if nvcc is None:
        print("peel4d-core: no nvcc found, built for the CPU only")
        return False
    try:
        numbers = architectures(nvcc)
        if not numbers:
            print(f"peel4d-core: {nvcc} knows no GPU of ours, built for the CPU only")
            return False
        codes = [f"arch=compute_{number},code=sm_{number}" for number in numbers]
        codes += [f"arch=compute_{number},code=compute_{number}" for number in numbers[-2:]]
        generate = [argument for code in codes for argument in ("-gencode", code)]
        command = [nvcc, *FLAGS, "--threads", "0", *generate, "--fatbin", str(SOURCE)]
        subprocess.run([*command, "-o", str(target)], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"peel4d-core: the CUDA kernels were not built, CPU only: {error}")
        return False
    return True


if __name__ == "__main__":
    sys.exit(0 if build_fatbin(Path(sys.argv[1])) else 1)
