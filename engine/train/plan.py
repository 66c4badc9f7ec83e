"""What a reconstruction is going to do, decided and checked before any work, and its folder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from ..capture.capture import Capture
from ..capture.listing import file_state
from ..errors import ReconstructionError
from .records import read_json, write_json
from .settings import TrainSettings

SCHEMA = "peel4d-reconstruction"
#: 2: recipes have levels.
VERSION = 2
#: Frames of one training job with a field; also the clip's unit (see DESIGN.md, fragment).
FRAGMENT_FRAMES = 10
POINT_SOURCES = ("auto", "hull", "depth")
BACKGROUNDS = ("auto", "none")
#: "auto": the capture's own where it has any, else estimated as suits each view.
MASKS = ("auto", "capture", "plate", "chroma")


@dataclass(frozen=True)
class Folder:
    """The files of a reconstruction, by name."""

    root: Path

    @property
    def plan(self) -> Path:
        return self.root / "reconstruction.json"

    @property
    def shared(self) -> Path:
        return self.root / "shared.safetensors"

    def color(self, label: int) -> Path:
        return self.root / f"color-{label:06d}.safetensors"

    @property
    def background(self) -> Path:
        return self.root / "background.safetensors"

    @property
    def initial_background(self) -> Path:
        return self.root / "initial" / "background.safetensors"

    def running(self, key: str) -> Path:
        """The checkpoint of an unfinished training job."""
        return self.root / f"running-{key}.safetensors"

    def all_running(self) -> list[Path]:
        return sorted(self.root.glob("running-*.safetensors"))

    @property
    def clip(self) -> Path:
        return self.root / "clip.p4d"

    @property
    def initial_clip(self) -> Path:
        return self.root / "initial.p4d"

    @property
    def preview_clip(self) -> Path:
        return self.root / "preview.p4d"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.json"

    @property
    def masks(self) -> Path:
        return self.root / "masks"

    @property
    def unreadable(self) -> Path:
        return self.root / "unreadable.json"

    def frame(self, label: int) -> Path:
        return self.root / "frames" / f"{label:06d}.safetensors"

    def field(self, label: int) -> Path:
        """The trained field of the fragment that begins with this frame."""
        return self.root / "fields" / f"{label:06d}.safetensors"

    def initial(self, label: int) -> Path:
        return self.root / "initial" / f"{label:06d}.safetensors"

    def plate(self, view: str) -> Path:
        return self.root / "plates" / f"{view.replace('/', '_')}.png"


@dataclass(frozen=True)
class Plan:
    """capture: absolute path. size: given for captures without one. frames: labels. views, test
    views: names. points: where initial points come from, "hull" or "depth". background: "auto" (a
    static one where the capture shows it) or "none". fingerprint: of the capture's calibration and
    files, so that what was made from others is not mixed with them. masks: "capture", its own, or
    how they are estimated: "auto", "plate" or "chroma" (see `segment.masks`)."""

    capture: str
    size: tuple[int, int] | None
    frames: tuple[int, ...]
    views: tuple[str, ...]
    test_views: tuple[str, ...]
    points: str
    background: str
    preset: str
    settings: TrainSettings
    fingerprint: str
    masks: str = "capture"


def fingerprint(capture: Capture, unreadable: Mapping[str, str] | None = None) -> str:
    """A digest of the calibration and of the names, sizes and times of the files.

    unreadable: {path: state} of files that count as they were then, see `note_unreadable`.
    """
    digest = hashlib.sha256()
    for array in (capture.K, capture.R, capture.t):
        digest.update(array.tobytes())
    described: dict[Path, str] = {}
    for files in (capture.images, capture.masks, capture.depths):
        for key, file in sorted(files.items(), key=lambda item: item[0]):
            if file.path not in described:
                state = (unreadable or {}).get(str(file.path)) or file_state(file.path)
                described[file.path] = f"{file.path.name} {state}"
            digest.update(f"{key} {file.index} {described[file.path]}\n".encode())
    return digest.hexdigest()


def note_unreadable(folder: Folder, file: Path) -> None:
    """Remember a file that could not be read: nothing was made from it, so it may be repaired."""
    if folder.plan.is_file():
        write_json(folder.unreadable, {**unreadable(folder), str(file): str(file_state(file))})


def unreadable(folder: Folder) -> dict[str, str]:
    """{path: state} of the files that could not be read when they were in that state."""
    return read_json(folder.unreadable) if folder.unreadable.is_file() else {}


def make_plan(
    capture: Capture,
    *,
    size: tuple[int, int] | None,
    frames: str | None,
    views: list[str] | None,
    test_views: list[str] | None,
    points: str,
    preset: str,
    settings: TrainSettings,
    background: str = "auto",
    masks: str = "auto",
) -> Plan:
    """Resolve what the user asked for against the capture. Raises CaptureError for unknown names
    and ReconstructionError where nothing can be reconstructed."""
    if not capture.images:
        raise ReconstructionError(
            "the capture is calibration only, it has no images", where=capture.path
        )
    for kind, name, known in (("background", background, BACKGROUNDS), ("masks", masks, MASKS)):
        if name not in known:
            raise ReconstructionError(
                f"no {kind} called '{name}'", hint=f"Use {', '.join(known[:-1])} or {known[-1]}"
            )
    held_out = [v.name for v in capture.views if not v.train] if test_views is None else test_views
    chosen = [v.name for v in capture.views if v.train] if views is None else views
    for name in [*held_out, *chosen]:
        capture.view_index(name)
    chosen = [name for name in chosen if name not in held_out]
    labels = select_frames(capture, frames)

    indices = [capture.view_index(name) for name in chosen]
    frame_indices = [capture.frames.index(label) for label in labels]
    if len({i for f, i in capture.images if i in set(indices) and f in set(frame_indices)}) < 2:
        raise ReconstructionError(
            f"{len(indices)} training view(s) with images in these frames, at least 2 are needed",
            where=capture.path,
            hint="A point is found where two cameras agree; check --views and --test-views",
        )
    depth = sum((f, v) in capture.depths for f in frame_indices for v in indices)
    if points == "auto":
        points = "depth" if depth >= 2 * len(frame_indices) else "hull"
    if points == "depth" and depth == 0:
        raise ReconstructionError(
            "no depth maps in this capture", where=capture.path, hint="Use --points hull"
        )
    if points == "depth":  # see TrainSettings
        settings = replace(settings, position_roughness=0.0, samples=max(2, settings.samples))
    own_masks = any((f, v) in capture.masks for f in frame_indices for v in indices)
    if masks == "capture" and not own_masks:
        raise ReconstructionError(
            "no masks in this capture",
            where=capture.path,
            hint="Add one PNG per image, white where the subject is, or use --masks auto",
        )
    return Plan(
        str(capture.path.resolve()),
        size,
        tuple(labels),
        tuple(chosen),
        tuple(held_out),
        points,
        background,
        preset,
        settings,
        fingerprint(capture),
        "capture" if masks == "auto" and own_masks else masks,
    )


def select_frames(capture: Capture, text: str | None) -> list[int]:
    """Frame labels of "a:b" (a <= label < b, either end may be left out) or of all frames."""
    if text is None:
        return list(capture.frames)
    first, colon, last = text.partition(":")
    try:
        low = int(first) if first else capture.frames[0]
        high = (int(last) if last else capture.frames[-1] + 1) if colon else low + 1
    except ValueError:
        raise ReconstructionError(
            f"'{text}' is not a frame range", hint="Write a:b, as in --frames 0:10"
        ) from None
    labels = [label for label in capture.frames if low <= label < high]
    if not labels:
        raise ReconstructionError(
            f"no frame in {text}",
            where=capture.path,
            hint=f"The capture has frames {capture.frames[0]} to {capture.frames[-1]}",
        )
    return labels


def save_plan(folder: Folder, plan: Plan) -> None:
    write_json(folder.plan, {"schema": SCHEMA, "version": VERSION, **asdict(plan)})


def load_plan(folder: Folder) -> Plan:
    """Read reconstruction.json. Raises ReconstructionError for anything but our own schema."""
    if not folder.plan.is_file():
        raise ReconstructionError(
            "no reconstruction here (reconstruction.json is missing)",
            where=folder.root,
            hint="Make one with `peel4d reconstruct CAPTURE -o DIR`",
        )
    value = read_json(folder.plan)
    if value.get("schema") != SCHEMA or value.get("version") != VERSION:
        raise ReconstructionError(
            f"not a {SCHEMA} of version {VERSION}",
            where=folder.plan,
            hint="It was made by another version of Peel4D; reconstruct again",
        )
    try:
        settings = TrainSettings(**value["settings"])
        names = {field.name for field in fields(Plan)} - {"settings"}
        plain = {
            name: tuple(value[name]) if isinstance(value[name], list) else value[name]
            for name in names
            if name in value
        }
        return Plan(settings=settings, **plain)
    except (KeyError, TypeError) as error:
        raise ReconstructionError(
            f"incomplete ({error})", where=folder.plan, hint="Reconstruct again"
        ) from error
