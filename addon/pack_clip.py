# SPDX-License-Identifier: GPL-3.0-or-later
"""Pack Clip: a smaller file of the active clip, made while Blender goes on."""

from __future__ import annotations

from pathlib import Path

import bpy
from bpy.props import BoolProperty, EnumProperty, FloatProperty, StringProperty

from ..engine.clip.pack import FITTED_COARSENESS, PackSettings, pack
from ..engine.errors import PeelError, ReconstructionError
from ..engine.progress import Progress
from .blend_paths import stored_path
from .clip_file import clip_file, clip_objects, clip_path, is_editable
from .job.fitting import Fitting
from .job.interpreter import choose, launch
from .job.request import finished_clip, memory_arguments
from .packing import Cancelled, Packing, Written
from .preferences import environment_folder, preferences

#: Seconds between two looks at the thread.
_INTERVAL = 0.2
_DEFAULTS = PackSettings()


class _PackingHere(Packing):
    """One run of `pack` in this process."""

    def __init__(self, source: str, output: str, settings: PackSettings) -> None:
        super().__init__()
        self._arguments = Path(source), Path(output), settings

    def work(self) -> Written:
        done = pack(*self._arguments, progress=self._progress)
        return Written(done.nbytes, done.source_nbytes, done.pruned)

    def _progress(self, progress: Progress) -> None:
        if self.cancelled.is_set():
            raise Cancelled
        self.share = progress.step / max(progress.total, 1)
        self.state = "Looking for the steps" if progress.stage == "search" else "Packing"


def _footage_folder() -> Path | None:
    """The folder of the reconstruction whose clip the active object shows."""
    path = Path(clip_path(bpy.context.object))
    return path.parent if path == finished_clip(path.parent) else None


def _fitting(output: str, settings: PackSettings) -> Fitting:
    """A worker that packs the active clip. Raises PeelError."""
    folder = _footage_folder()
    if folder is None:
        raise ReconstructionError(
            "only the clip in the folder of a reconstruction can be fitted to its footage",
            where=clip_path(bpy.context.object),
            hint="Switch Fit to Footage off",
        )
    chosen = choose(preferences().interpreter, environment_folder())
    arguments = ["pack", str(folder), output, "--prune", repr(settings.prune)]
    for name, value in (
        ("--target-bytes", settings.target_bytes),
        ("--target-psnr", settings.target_psnr),
    ):
        if value is not None:
            arguments += [name, repr(value)]
    if settings.target_bytes is None and settings.target_psnr is None:
        arguments += ["--coarseness", repr(settings.coarseness)]
    arguments += memory_arguments(preferences().memory_limit)
    log = folder / "worker.log"
    return Fitting(launch(chosen, arguments, log), log)


class Peel4DPackClip(bpy.types.Operator):
    """Write this clip to a smaller file that looks the same"""

    bl_idname = "object.peel4d_pack_clip"
    bl_label = "Pack Clip"
    # Not to be repeated or adjusted: it runs on after `execute` has returned.
    bl_options = {"UNDO"}  # noqa: RUF012 (Blender's own attribute)

    filepath: StringProperty(name="File", subtype="FILE_PATH", options={"SKIP_SAVE"})
    filter_glob: StringProperty(default="*.p4d", options={"HIDDEN"})
    check_existing: BoolProperty(default=True, options={"HIDDEN"})
    goal: EnumProperty(
        name="Goal",
        items=(
            ("COARSENESS", "Steps", "Choose how coarse the steps are"),
            ("SIZE", "File Size", "As good as a file of this size can be"),
            ("PSNR", "PSNR", "As small as pictures can be that differ so little"),
        ),
        default="COARSENESS",
    )
    coarseness: FloatProperty(
        name="Coarseness",
        description="1 costs some hundredths of a decibel; 2 is smaller and shows up close",
        default=1.0,
        min=0.1,
        max=8.0,
        soft_min=0.25,
        soft_max=4.0,
    )
    megabytes: FloatProperty(
        name="Megabytes", description="Largest size of the file", default=5.0, min=0.01
    )
    psnr: FloatProperty(
        name="PSNR",
        description="Of the packed pictures against the clip's, in its cameras, dB",
        default=40.0,
        min=20.0,
        max=70.0,
    )
    prune: FloatProperty(
        name="Hidden Points",
        description="Points that together make less than this share of the pictures of the clip's "
        "cameras are left out",
        default=_DEFAULTS.prune,
        min=0.0,
        max=0.1,
        precision=3,
    )
    fit: BoolProperty(
        name="Fit to Footage",
        description="Train the packed points on the footage again, for some seconds per frame: the "
        "steps can be twice as long. For the clip in the folder of a reconstruction",
        default=False,
    )
    use_packed: BoolProperty(
        name="Use It Here", description="Show the packed file in this object", default=True
    )
    relative_path: BoolProperty(name="Relative Path", default=True)

    _packing: Packing | None = None
    _timer: bpy.types.Timer | None = None
    _clip: int = 0
    _output: str = ""

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        clip = context.object
        if clip is None or not clip.peel4d.is_clip:
            cls.poll_message_set("The active object shows no Peel4D clip")
            return False
        if clip_file(clip).info is None:
            cls.poll_message_set("The clip's file cannot be read")
            return False
        return True

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        source = Path(clip_path(context.object))
        self.filepath = str(source.with_name(f"{source.stem}_packed.p4d"))
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def check(self, _context: bpy.types.Context) -> bool:
        """The file browser asks for what will be overwritten."""
        name = bpy.path.ensure_ext(self.filepath, ".p4d")
        changed = name != self.filepath
        self.filepath = name
        return changed

    def draw(self, _context: bpy.types.Context) -> None:
        layout = self.layout
        layout.use_property_split = True
        layout.prop(self, "goal")
        layout.prop(self, {"SIZE": "megabytes", "PSNR": "psnr"}.get(self.goal, "coarseness"))
        layout.prop(self, "prune")
        row = layout.row()
        row.enabled = bpy.context.object is not None and _footage_folder() is not None
        row.prop(self, "fit")
        layout.prop(self, "use_packed")
        row = layout.row()
        row.active = self.use_packed
        row.prop(self, "relative_path")

    def execute(self, context: bpy.types.Context) -> set[str]:
        if not self.filepath:
            self.report({"ERROR"}, "No file is chosen")
            return {"CANCELLED"}
        output = bpy.path.ensure_ext(bpy.path.abspath(self.filepath), ".p4d")
        settings = PackSettings(
            coarseness=self.coarseness * (FITTED_COARSENESS if self.fit else 1.0),
            prune=self.prune,
            target_bytes=round(self.megabytes * 1e6) if self.goal == "SIZE" else None,
            target_psnr=self.psnr if self.goal == "PSNR" else None,
        )
        self._clip = context.object.session_uid
        self._output = output
        try:
            if self.fit:
                self._packing = _fitting(output, settings)
            else:
                self._packing = _PackingHere(clip_path(context.object), output, settings)
        except PeelError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        self._packing.start()
        if bpy.app.background or context.window is None:
            self._packing.wait()
            return self._finish()
        manager = context.window_manager
        self._timer = manager.event_timer_add(_INTERVAL, window=context.window)
        manager.progress_begin(0, 100)
        manager.modal_handler_add(self)
        return {"RUNNING_MODAL"}

    def modal(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        packing = self._packing
        if event.type == "ESC" and event.value == "PRESS":
            packing.cancel()
            return {"RUNNING_MODAL"}
        if event.type != "TIMER":
            return {"PASS_THROUGH"}
        if not packing.over:
            context.window_manager.progress_update(round(100 * packing.share))
            text = f"{packing.state} {packing.share:.0%}    Esc: stop"
            context.workspace.status_text_set(text)
            return {"PASS_THROUGH"}
        self._stop_watching(context)
        return self._finish()

    def cancel(self, context: bpy.types.Context) -> None:
        """Blender ends or loads another file."""
        if self._packing is not None:
            self._packing.cancel()
            self._packing.wait()
        self._stop_watching(context)

    def _stop_watching(self, context: bpy.types.Context) -> None:
        if self._timer is not None:
            context.window_manager.event_timer_remove(self._timer)
            context.window_manager.progress_end()
            context.workspace.status_text_set(None)
            self._timer = None

    def _finish(self) -> set[str]:
        packing = self._packing
        if packing.packed is None:
            if packing.error:
                self.report({"ERROR"}, packing.error)
            else:
                self.report({"INFO"}, "Stopped; nothing was written")
            return {"CANCELLED"}
        packed = packing.packed
        if self.use_packed:
            clips = [clip for clip in clip_objects() if clip.session_uid == self._clip]
            if clips and is_editable(clips[0]):
                stored = stored_path(self._output, relative=self.relative_path)
                clips[0].peel4d.filepath = stored
            else:
                self.report({"WARNING"}, "The clip's object is gone; import the packed file")
        self.report(
            {"INFO"},
            f"{packed.nbytes / 1e6:.2f} MB instead of {packed.source_nbytes / 1e6:.2f} MB, "
            f"{packed.pruned:.0%} of the points left out",
        )
        return {"FINISHED"}


def register() -> None:
    bpy.utils.register_class(Peel4DPackClip)


def unregister() -> None:
    bpy.utils.unregister_class(Peel4DPackClip)
