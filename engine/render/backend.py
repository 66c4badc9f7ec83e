"""Pictures of points: the entry that everybody calls."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import CoreError
from . import core, cuda
from .camera import Camera
from .mesh import Mesh
from .settings import PeelSettings, Rendered
from .splats import PackedSplats, Splats
from .triangles import join_meshes

DEFAULT = PeelSettings()
BACKENDS = ("auto", "cpu", "cuda")


@dataclass(frozen=True, eq=False)
class Instance:
    """A clip's points placed in the world.

    matrix: (4, 4) float64, clip -> world, affine. opacity: multiplies the density, 0 to 1. id: what
    `Rendered.ids` shows where this clip is the surface; None: its place in the sequence.
    """

    splats: Splats | PackedSplats
    matrix: np.ndarray
    opacity: float = 1.0
    id: int | None = None


def render(
    splats: Splats | PackedSplats,
    camera: Camera,
    settings: PeelSettings = DEFAULT,
    *,
    samples: int = 1,
    backend: str = "auto",
    threads: int = 0,
    ids: bool = False,
    out: Rendered | None = None,
) -> Rendered:
    """Peel one cloud, as `reference` defines it; arguments as for `render_scene`."""
    return render_scene(
        [Instance(splats, core.IDENTITY)],
        camera,
        settings,
        samples=samples,
        backend=backend,
        threads=threads,
        ids=ids,
        out=out,
    )


def render_scene(
    instances: Sequence[Instance],
    camera: Camera,
    settings: PeelSettings = DEFAULT,
    *,
    meshes: Sequence[Mesh] = (),
    samples: int = 1,
    backend: str = "auto",
    threads: int = 0,
    ids: bool = False,
    out: Rendered | None = None,
) -> Rendered:
    """Peel several clouds together, in one depth order, with opaque meshes in it.

    Positions take an instance's whole matrix, the radius its largest singular value (a stretched
    object shows no gaps). Harmonics are evaluated in the clip's own space, where the camera is
    brought, so they are never rotated. No instances give a picture of the meshes alone.

    samples: 1, 2 or 4 along each axis of a pixel; rgba is their mean. backend: see `select`.
    threads: of the CPU, 0 for $PEEL4D_THREADS or all cores. ids: fill Rendered.ids. out: a picture
    to write to instead of a new one (its arrays are returned). Raises CoreError.
    """
    name = select(backend)
    core.camera_struct(camera)  # which checks it
    clips = [placed(instance, index, camera) for index, instance in enumerate(instances)]
    triangles = join_meshes(meshes)
    arrays = None
    if out is not None:
        arrays = {"rgba": out.rgba, "surface": out.depth}
        if out.ids is not None:
            arrays["surface_id"] = out.ids
    want = ("surface", "surface_id") if ids else ("surface",)
    arguments = {"triangles": triangles, "samples": samples, "want": want, "out": arrays}
    if name == "cuda":
        result = cuda.renderer().render_clips(clips, camera, settings, **arguments)
    else:
        result = core.render_clips(clips, camera, settings, threads=threads, **arguments)
    return Rendered(result["rgba"], result["surface"], result.get("surface_id"), name)


def select(backend: str = "auto") -> str:
    """The back end that a request means, "cpu" or "cuda"; "auto" is CUDA where there is a GPU.

    Raises CoreError for any other name, and for "cuda" where there is none, saying why.
    """
    if backend not in BACKENDS:
        raise CoreError(f"no back end is called {backend!r}", hint=f"Use {', '.join(BACKENDS)}")
    if backend == "cpu":
        return "cpu"
    problem = _cuda_problem()
    if problem is None:
        return "cuda"
    if backend == "cuda":
        raise problem
    return "cpu"


@functools.lru_cache(maxsize=1)
def _cuda_problem() -> CoreError | None:
    """Why CUDA cannot be used; asked once, because looking for a GPU takes a while."""
    try:
        cuda.renderer()
    except CoreError as error:
        return error
    return None


def placed(instance: Instance, index: int, camera: Camera) -> core.PlacedClip:
    """An instance as the back ends take it; index: its place in the scene. Raises CoreError."""
    matrix = np.asarray(instance.matrix, dtype=np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or (matrix[3] != [0, 0, 0, 1]).any():
        raise CoreError(
            "an instance's matrix is not a finite affine 4 x 4 matrix",
            hint="Expected (0, 0, 0, 1) in its last row",
        )
    if not 0 <= instance.opacity <= 1:
        raise CoreError(f"an instance's opacity is {instance.opacity}", hint="Use 0 to 1")
    linear, shift = matrix[:3, :3], matrix[:3, 3]
    if np.array_equal(linear, core.IDENTITY[:3, :3]):
        scale, inverse = 1.0, linear
    else:
        scale = float(np.linalg.svd(linear, compute_uv=False)[0])
        # A flattened object has no inverse; its colours come from the nearest sensible direction.
        inverse = np.linalg.pinv(linear)
    if camera.orthographic:
        eye = inverse @ camera.forward
        eye /= max(np.linalg.norm(eye), 1e-12)
    else:
        eye = inverse @ (camera.centre - shift)
    return core.PlacedClip(
        instance.splats,
        matrix,
        scale,
        float(instance.opacity),
        eye,
        index if instance.id is None else instance.id,
    )
