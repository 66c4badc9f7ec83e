"""Checkpoints: safetensors with a JSON header, replaced atomically. No pickle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..atomic import write_bytes
from ..errors import ReconstructionError
from ..model.kplanes import FieldPoints
from ..render.splats import Splats


def save_tensors(path: Path, tensors: dict[str, torch.Tensor], **metadata: object) -> None:
    """Write named tensors and JSON metadata. Raises OutputError."""
    from safetensors.torch import save

    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save(contiguous, metadata={"peel4d": json.dumps(metadata)}))


def load_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """Read what `save_tensors` wrote. Raises ReconstructionError for anything else."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = json.loads((file.metadata() or {})["peel4d"])
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ReconstructionError(
            f"unreadable checkpoint ({error})",
            where=path,
            hint="Delete this file; --resume then trains its frames again",
        ) from error


def save_splats(path: Path, splats: Splats, **metadata: object) -> None:
    """Write one frame's points. Raises OutputError."""
    arrays = {
        "position": splats.position,
        "radius": splats.radius,
        "density": splats.density,
        "sh": splats.sh,
    }
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    save_tensors(path, tensors, **metadata)


def load_splats(path: Path) -> Splats:
    """Read one frame's points. Raises ReconstructionError."""
    tensors, _ = load_tensors(path)
    try:
        return Splats(*(tensors[n].numpy() for n in ("position", "radius", "density", "sh")))
    except KeyError as error:
        raise ReconstructionError(
            f"checkpoint without {error}",
            where=path,
            hint="Delete this file; --resume then trains its frames again",
        ) from error


def save_field(path: Path, model: FieldPoints, labels: Sequence[int], **metadata: object) -> None:
    """Write the trained model of a fragment's frames. Raises OutputError."""
    save_tensors(path, model.state_dict(), shape=model.shape, frames=list(labels), **metadata)


def load_field(path: Path) -> tuple[FieldPoints, tuple[int, ...]]:
    """Read a fragment's model and the labels of its frames. Raises ReconstructionError."""
    tensors, metadata = load_tensors(path)
    try:
        model = FieldPoints.of_shape(metadata["shape"])
        model.load_state_dict(tensors)
        return model, tuple(int(label) for label in metadata["frames"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ReconstructionError(
            f"not the field of a fragment ({error})",
            where=path,
            hint="Delete this file and its frames; --resume then trains them again",
        ) from error
