"""What an interpreter has of what training needs, for the button that checks it."""

from __future__ import annotations

import importlib
import platform
import sys

#: Import name by what people call it, in the order of the report.
PACKAGES = {
    "torch": "torch",
    "numpy": "numpy",
    "OpenCV": "cv2",
    "PyAV": "av",
    "safetensors": "safetensors",
    "packaging": "packaging",
    "zstandard": "zstandard",
}


def describe() -> dict:
    """Versions, GPU and what is missing:

    {"python", "executable", "versions": {name: version}, "missing": [{"name", "reason"}],
    "gpu": name or None, "gpu_bytes": int or None, "core": text or None}
    """
    versions, missing = {}, []
    for name, module in PACKAGES.items():
        try:
            versions[name] = str(getattr(importlib.import_module(module), "__version__", "?"))
        except Exception as error:  # a broken installation raises anything
            missing.append({"name": name, "reason": str(error)})
    core = None
    try:
        from ..render.core_library import build_info

        core = str(build_info())
    except Exception as error:
        missing.append({"name": "splat core", "reason": str(error)})
    gpu, gpu_bytes = _gpu() if "torch" in versions else (None, None)
    return {
        "python": platform.python_version(),
        "executable": sys.executable,
        "versions": versions,
        "missing": missing,
        "gpu": gpu,
        "gpu_bytes": gpu_bytes,
        "core": core,
    }


def _gpu() -> tuple[str | None, int | None]:
    import torch

    try:
        if torch.cuda.is_available():
            return torch.cuda.get_device_name(0), torch.cuda.get_device_properties(0).total_memory
        if torch.backends.mps.is_available():
            return "Apple GPU", None
    except Exception as error:  # drivers and builds that do not fit each other
        return f"unusable: {error}", None
    return None, None
