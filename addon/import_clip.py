# SPDX-License-Identifier: GPL-3.0-or-later
"""Import of a `.p4d`: an object that shows the clip, and the cameras of its capture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np
from bpy.props import (
    BoolProperty,
    CollectionProperty,
    EnumProperty,
    FloatProperty,
    StringProperty,
)
from bpy_extras.io_utils import ImportHelper
from mathutils import Matrix

from ..engine.clip.clip import ClipCamera, ClipInfo
from ..engine.clip.reader import ClipReader
from ..engine.errors import PeelError
from .blend_paths import stored_path
from .cameras import create_cameras, lens_from_intrinsics
from .render.engine import ENGINE_ID

UP_AXES = {
    "X": (1.0, 0.0, 0.0),
    "Y": (0.0, 1.0, 0.0),
    "Z": (0.0, 0.0, 1.0),
    "-X": (-1.0, 0.0, 0.0),
    "-Y": (0.0, -1.0, 0.0),
    "-Z": (0.0, 0.0, -1.0),
}


@dataclass(frozen=True)
class ImportedClip:
    """clip: the object that shows the clip. cameras: its camera objects by the name of the view."""

    clip: bpy.types.Object
    cameras: dict[str, bpy.types.Object]
    warnings: tuple[str, ...]


def import_clip(
    scene: bpy.types.Scene,
    collection: bpy.types.Collection,
    path: str | Path,
    *,
    up: str = "AUTO",
    cameras: bool = True,
    frame_start: float = 1.0,
    relative_path: bool = False,
    set_frame_range: bool = True,
    set_frame_rate: bool = False,
    set_engine: bool = False,
) -> ImportedClip:
    """Add a clip to a scene.

    path: the `.p4d`; only its header is read. up: the clip's axis that becomes Blender's Z, one of
    UP_AXES, or AUTO: as the clip says, else as its cameras suggest, else unturned. cameras: add
    those of the capture, in a collection of their own. frame_start: scene frame that shows the
    clip's first frame. relative_path: store the path relative to the .blend file, if that is saved.
    set_*: give the scene the clip's frame range, its frame rate, the Peel4D engine.
    Raises PeelError when the file is no readable clip or a camera of it has no focal length; then
    nothing was added.
    """
    path = Path(path).absolute()
    with ClipReader(path) as reader:
        info = reader.info
    # The subject's: a box around a whole room would say nothing about where the clip is.
    bounds = info.frame_bounds
    for camera in info.cameras if cameras else ():
        lens_from_intrinsics(camera.K, camera.width, camera.height)  # or refuse before adding

    clip = bpy.data.objects.new(path.stem, _box(path.stem, bounds))
    collection.objects.link(clip)
    clip.display_type = "WIRE"
    axis = _up_axis(up, info)
    clip.matrix_basis = Matrix(rotation_to_z(axis).tolist()).to_4x4()
    properties = clip.peel4d
    properties.is_clip = True
    properties.filepath = stored_path(path, relative=relative_path)
    properties.frame_start = frame_start

    created: dict[str, bpy.types.Object] = {}
    if cameras and info.cameras:
        group = bpy.data.collections.new(f"{path.stem} cameras")
        collection.children.link(group)
        created = create_cameras(info.cameras, bounds, clip, group, everything=info.bounds)
        if scene.camera is None:
            scene.camera = next(iter(created.values()))
    if set_frame_range:
        scene.frame_start = round(frame_start)
        scene.frame_end = round(frame_start) + info.frame_count - 1
    if set_frame_rate:
        _set_frame_rate(scene, info.fps)
    if set_engine:
        scene.render.engine = ENGINE_ID
    return ImportedClip(clip, created, tuple(_skew_warnings(info.cameras) if created else ()))


def rotation_to_z(axis: np.ndarray) -> np.ndarray:
    """The smallest rotation, (3, 3), that turns the unit vector `axis` into +Z."""
    x, y, z = axis
    if z < -1.0 + 1e-9:
        return np.diag([1.0, -1.0, -1.0])
    # Rodrigues' formula for v = axis x Z = (y, -x, 0) and cos = z.
    cross = np.array([[0.0, 0.0, -x], [0.0, 0.0, -y], [x, y, 0.0]])
    return np.eye(3) + cross + cross @ cross / (1.0 + z)


def up_from_cameras(cameras: Sequence[ClipCamera]) -> np.ndarray | None:
    """The axis nearest to the mean upward direction of the cameras, (3,), None without a clear one.

    People hold cameras upright: the directions agree although each one is tilted.
    """
    if not cameras:
        return None
    mean = np.mean([-np.asarray(camera.R)[1] for camera in cameras], axis=0)
    if np.linalg.norm(mean) < 0.5:
        return None
    axis = int(np.argmax(np.abs(mean)))
    if abs(mean[axis]) < 0.8 * np.linalg.norm(mean):
        return None
    return np.eye(3)[axis] * np.sign(mean[axis])


def _up_axis(up: str, info: ClipInfo) -> np.ndarray:
    if up != "AUTO":
        return np.array(UP_AXES[up])
    if info.up is not None:
        return np.asarray(info.up, dtype=np.float64)
    suggested = up_from_cameras(info.cameras)
    return np.array(UP_AXES["Z"]) if suggested is None else suggested


def fit_box(clip: bpy.types.Object, bounds: np.ndarray) -> None:
    """Give the box of a clip object other bounds; a mesh that is no such box stays as it is."""
    mesh = clip.data
    if isinstance(mesh, bpy.types.Mesh) and mesh.library is None and _edges_of(mesh) == _BOX_EDGES:
        mesh.vertices.foreach_set("co", np.array(_corners(bounds), dtype=np.float32).ravel())
        mesh.update()


#: Corners whose numbers differ in one bit.
_BOX_EDGES = [(a, a | bit) for a in range(8) for bit in (1, 2, 4) if not a & bit]


def _edges_of(mesh: bpy.types.Mesh) -> list[tuple[int, ...]]:
    return [tuple(edge.vertices) for edge in mesh.edges]


def _corners(bounds: np.ndarray) -> list[tuple[float, float, float]]:
    return [
        (bounds[i, 0], bounds[j, 1], bounds[k, 2]) for i in (0, 1) for j in (0, 1) for k in (0, 1)
    ]


def _box(name: str, bounds: np.ndarray) -> bpy.types.Mesh:
    """The edges of a box. Without faces every engine leaves it out of its pictures."""
    mesh = bpy.data.meshes.new(name)
    mesh.from_pydata(_corners(bounds), _BOX_EDGES, [])
    mesh.update()
    return mesh


def _set_frame_rate(scene: bpy.types.Scene, fps: float) -> None:
    """Blender's rate is an integer over a float: 29.97 = 30 / 1.001."""
    scene.render.fps = max(round(fps), 1)
    scene.render.fps_base = scene.render.fps / fps


def _skew_warnings(cameras: Sequence[ClipCamera]) -> list[str]:
    skewed = [c.name for c in cameras if abs(c.K[0, 1] / c.K[1, 1]) * c.height > 0.5]
    if not skewed:
        return []
    return [f"Blender's cameras have no skew, pictures are off by it: {', '.join(skewed)}"]


class Peel4DImportClip(bpy.types.Operator, ImportHelper):
    """Import Peel4D clips, performances reconstructed from multi-view video"""

    bl_idname = "import_scene.peel4d"
    bl_label = "Import Peel4D Clip"
    bl_options = {"REGISTER", "UNDO", "PRESET"}  # noqa: RUF012 (Blender's own attribute)

    filename_ext = ".p4d"
    filter_glob: StringProperty(default="*.p4d", options={"HIDDEN"})
    # Several files, from the file browser or dropped into a window.
    directory: StringProperty(subtype="DIR_PATH", options={"HIDDEN", "SKIP_SAVE"})
    files: CollectionProperty(
        type=bpy.types.OperatorFileListElement, options={"HIDDEN", "SKIP_SAVE"}
    )

    up: EnumProperty(
        name="Up",
        description="Axis of the clip that becomes Blender's Z",
        items=(
            ("AUTO", "Automatic", "As the clip says, else as its cameras suggest"),
            *((axis, axis, "") for axis in UP_AXES),
        ),
        default="AUTO",
    )
    cameras: BoolProperty(
        name="Cameras", description="Add the cameras of the capture", default=True
    )
    frame_start: FloatProperty(
        name="Start Frame",
        description="Scene frame that shows the first frame of the clip",
        default=1.0,
        step=100,
        precision=1,
    )
    relative_path: BoolProperty(
        name="Relative Path",
        description="Store the path relative to the .blend file",
        default=True,
    )
    set_frame_range: BoolProperty(
        name="Set Frame Range",
        description="Give the scene the start and the end of the clip",
        default=True,
    )
    set_frame_rate: BoolProperty(
        name="Set Frame Rate", description="Give the scene the clip's frame rate", default=False
    )
    set_engine: BoolProperty(
        name="Render With Peel4D",
        description="Make Peel4D the scene's render engine; others do not show clips",
        default=True,
    )

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        if self.directory and self.files:  # dropped: the options are in the Adjust panel
            return self.execute(context)
        return super().invoke(context, event)

    def execute(self, context: bpy.types.Context) -> set[str]:
        names = [file.name for file in self.files if file.name]
        paths = [str(Path(self.directory) / name) for name in names] or [self.filepath]
        paths = [bpy.path.abspath(path) for path in paths]
        try:
            for path in paths if len(paths) > 1 else ():
                ClipReader(path).close()  # all or none
            imported = [
                import_clip(
                    context.scene,
                    context.collection,
                    path,
                    up=self.up,
                    cameras=self.cameras,
                    frame_start=self.frame_start,
                    relative_path=self.relative_path,
                    set_frame_range=self.set_frame_range,
                    set_frame_rate=self.set_frame_rate,
                    set_engine=self.set_engine,
                )
                for path in paths
            ]
        except PeelError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        for selected in context.selected_objects:
            selected.select_set(False)
        for one in imported:
            for warning in one.warnings:
                self.report({"WARNING"}, warning)
            if one.clip.name in context.view_layer.objects:
                one.clip.select_set(True)
                context.view_layer.objects.active = one.clip
        return {"FINISHED"}


class PEEL4D_FH_clip(bpy.types.FileHandler):
    """Clips dropped into a window."""

    bl_idname = "PEEL4D_FH_clip"
    bl_label = "Peel4D Clip"
    bl_import_operator = "import_scene.peel4d"
    bl_file_extensions = ".p4d"

    @classmethod
    def poll_drop(cls, context: bpy.types.Context) -> bool:
        return context.area is not None and context.area.type in {"VIEW_3D", "OUTLINER"}


def _menu_entry(self, _context) -> None:
    self.layout.operator(Peel4DImportClip.bl_idname, text="Peel4D Clip (.p4d)")


def register() -> None:
    bpy.utils.register_class(Peel4DImportClip)
    bpy.utils.register_class(PEEL4D_FH_clip)
    bpy.types.TOPBAR_MT_file_import.append(_menu_entry)


def unregister() -> None:
    bpy.types.TOPBAR_MT_file_import.remove(_menu_entry)
    bpy.utils.unregister_class(PEEL4D_FH_clip)
    bpy.utils.unregister_class(Peel4DImportClip)
