"""The work that codecs of fields make, in parts that processes of their own can do.

Units know nothing of each other, nor do their bases, and fragments nothing but their base.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..clip.codebook import Changes, decode_base, encode_base, encode_changes
from ..clip.field_shape import shape_header
from ..clip.fragment import Member
from ..clip.reader import ClipReader
from ..render.importance import importance, worth_keeping
from .checkpoint import load_field, load_splats, load_tensors, save_field
from .codebook import CodebookSettings, build_base, texel_importance
from .distill import distill
from .footage_pool import Footage, opened
from .plan import Folder, Plan
from .plane_field import plane_field
from .tune_codes import dynamic_codes, tune_base


@dataclass(frozen=True, eq=False)
class UnitJob:
    """The field of frames that share one, and which of their points a clip needs.

    labels: of the frames. prune: as in `clip.pack.PackSettings`. steps: of fitting a field to the
    points, where they were trained without. place: the folder for such a field.
    """

    root: Path
    plan: Plan
    labels: tuple[int, ...]
    prune: float
    frame_steps: int
    place: Path

    def run(self, footage: Footage | None) -> UnitField:
        folder = Folder(self.root)
        with ClipReader(folder.clip) as reader:
            info = reader.info
        cameras = [camera.camera() for camera in info.cameras if camera.train]
        worth, frames = [], []
        for label in self.labels:
            splats = load_splats(folder.frame(label))
            worth.append(worth_keeping(splats, cameras, info.settings, self.prune))
            frames.append(splats.select(worth[-1]))
        weights = [
            importance(splats, cameras, info.settings) if cameras else np.ones(len(splats))
            for splats in frames
        ]
        path, errors = folder.field(self.labels[0]), {}
        trained = self.plan.settings.model == "field" and path.is_file()
        if not (trained and load_field(path)[1] == self.labels):
            spacing = float(load_tensors(folder.shared)[1]["spacing"])
            steps = self.frame_steps * len(self.labels)
            distilled = distill(frames, weights, spacing, self.plan.settings, steps=steps)
            path, errors = self.place / path.name, distilled.errors
            save_field(path, distilled.model, self.labels)
        planes = plane_field(load_field(path)[0])
        return UnitField(path, tuple(texel_importance(planes, frames, weights)), worth, errors)


@dataclass(frozen=True, eq=False)
class UnitField:
    """path: of the field's checkpoint. importance: of its texels, per group of planes. worth: of
    every frame (N,) bool, the points to keep. errors: of a field that was fitted to points."""

    path: Path
    importance: tuple[np.ndarray, ...]
    worth: list[np.ndarray]
    errors: dict[str, float]


@dataclass(frozen=True, eq=False)
class BaseJob:
    """Codebooks for the field at `path`. labels: of its frames. importance: of texels, per group of
    planes. steps: of tuning."""

    path: Path
    labels: tuple[int, ...]
    importance: tuple[np.ndarray, ...]
    settings: CodebookSettings = field(default_factory=CodebookSettings)
    steps: int = 0

    def run(self, footage: Footage | None) -> Member:
        model, _ = load_field(self.path)
        planes = plane_field(model)
        base = build_base(planes, self.importance, self.settings)
        if footage and self.steps:
            base = tune_base(opened(footage), model, self.labels, base, self.steps)
        return encode_base(base, shape_header(planes))


@dataclass(frozen=True, eq=False)
class ChangesJob:
    """Dynamic codes for `frames` frames of a field, from its step `first` on. base: encoded.
    share: of the codes. steps: of learning."""

    path: Path
    labels: tuple[int, ...]
    base: bytes
    first: int
    frames: int
    share: float
    steps: int

    def run(self, footage: Footage | None) -> Member:
        base = decode_base(self.base, "the base")
        if footage is None or not self.share or not self.steps:
            nothing = [np.zeros(len(group.classes), dtype=bool) for group in base.groups]
            codes = [np.zeros((0, base.shape.channels), dtype=np.int16) for _ in base.groups]
            return encode_changes(base, Changes(self.first, nothing, codes))
        model, _ = load_field(self.path)
        changes = dynamic_codes(
            opened(footage),
            model,
            self.labels,
            base,
            self.first,
            self.frames,
            share=self.share,
            steps=self.steps,
        )
        return encode_changes(base, changes)
