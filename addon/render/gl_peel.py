# SPDX-License-Identifier: GPL-3.0-or-later
"""Clips drawn by the graphics device that Blender itself draws with, of any vendor.

`draw_clips` draws into the framebuffer that is bound, from a draw callback:

    complete = draw_clips(instances, meshes, camera, settings,
                          owner=region.as_pointer(), moving=moving)
    if not complete and not moving: tag the region for redrawing

The method is that of 4K4D (Xu et al. 2024): pass k keeps per pixel the nearest point behind the one
that pass k - 1 kept, by the depth test and the depth texture of the pass before; two depth textures
take turns. Where points are equally deep, the first of them in the order of their drawing passes
the depth test, and the next pass keeps those with a higher index only. Before the passes every
point is projected once, to a texture of footprints, so that the harmonics are not evaluated in
every pass; after every few passes their layers are composited, which also tells the next ones which
pixels are finished, and whether any is not. Points of all clips are drawn in one call and share one
order.

It is the picture of `engine.render.reference` with one sample per pixel. A still view is refined in
several callbacks, so that none of them blocks Blender for long: meanwhile the picture of the moving
view stays.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ...engine.render.backend import Instance, placed
from ...engine.render.camera import Camera
from ...engine.render.mesh import Mesh
from ...engine.render.settings import PeelSettings
from .gl_context import DrawState, read_color, release_programs
from .gl_footprints import Footprints, in_front
from .gl_quality import Adaptation, Quality
from .gl_targets import NO_SCENE, SceneDepth, Targets, show_picture
from .gl_upload import Uploads, texture_of

#: Pictures that stay: the one that is shown and the one that is being drawn.
_PICTURES = 2
#: No step of a refinement is begun after so long in one callback, seconds.
SLICE = 0.05


@dataclass(frozen=True)
class Drawn:
    """What a picture is like. points: that were drawn, of all. seconds: that it took."""

    width: int
    height: int
    points: int
    all_points: int
    layers: int
    seconds: float


@dataclass(eq=False)
class _Progress:
    """A picture that is being drawn: of what, where, the passes to come, seconds so far."""

    scene: tuple
    quality: Quality
    targets: Targets
    passes: Iterator[None]
    points: int
    seconds: float = 0.0


def draw_clips(
    instances: Sequence[Instance],
    meshes: Sequence[Mesh],
    camera: Camera,
    settings: PeelSettings,
    *,
    owner: Hashable,
    moving: bool = False,
    scene_depth: SceneDepth | None = None,
    target: tuple[int, int, int, int] | None = None,
    space: str = "SCENE_LINEAR",
    to_scene_linear: np.ndarray | None = None,
) -> bool:
    """Draw clips and meshes, premultiplied, over what the bound framebuffer shows.

    instances, meshes, settings: as for `engine.render.backend.render_scene`. Their points and
    triangles are uploaded when an object is seen for the first time and kept while it lives, so
    hand over the same objects again while nothing changes.
    camera: of the target; camera.width and camera.height are its pixels.
    owner: whose picture it is, for example the region's pointer; it has textures, a last picture,
    which is shown again when nothing has changed, and a pace of its own until `release(owner)`.
    moving: the view or the frame changes from picture to picture. Then the resolution and the
    number of points and layers follow the time that pictures take; else they are refined.
    scene_depth: points and triangles behind it vanish.
    target: x, y, width, height in the framebuffer, pixels from its lower left corner; None: all of
    the current viewport.
    space: SCENE_LINEAR for `RenderEngine.view_draw` (to_scene_linear (3, 3): from linear Rec. 709
    where the working space is another), DISPLAY for a framebuffer that takes display-referred
    numbers as they are, ENCODED for one that blends sRGB as linear light (that of a POST_VIEW draw
    handler) and holds what `scene_depth` says.

    Returns whether the picture is as fine as it gets: if not, draw again, with moving=False.
    Main thread, with a graphics context. Raises CoreError. Blend and depth state are restored.
    """
    peeler = _PEELERS.get(owner)
    if peeler is None:
        peeler = _PEELERS[owner] = Peeler()
    complete = peeler.update(instances, meshes, camera, settings, moving, scene_depth)
    peeler.show(target, space, to_scene_linear)
    return complete


def framebuffer_space(framebuffer) -> str:
    """DISPLAY or ENCODED: how the bound framebuffer of a draw handler takes colours.

    Found out by drawing its first pixel, once.
    """
    import gpu

    if not _SPACE:
        x, y, width, height = gpu.state.viewport_get()
        grey = texture_of(np.array([[[0.5, 0.5, 0.5, 1.0]]], np.float32), "RGBA32F")
        with DrawState():
            gpu.state.viewport_set(0, 0, 1, 1)
            show_picture(grey, NO_SCENE, encoded=False, exact=True)
            gpu.state.viewport_set(x, y, width, height)
        # 0.5 as it was, or 0.735 as sRGB
        encoded = read_color(framebuffer, 1, 1)[0, 0, 0] > 0.6
        _SPACE.append("ENCODED" if encoded else "DISPLAY")
    return _SPACE[0]


def release(owner: Hashable) -> None:
    """Free what belongs to one owner (a region that was closed)."""
    _PEELERS.pop(owner, None)


def release_all() -> None:
    """Free everything on the graphics device."""
    _PEELERS.clear()
    UPLOADS.clear()
    NO_SCENE.release()
    release_programs()
    _SPACE.clear()


def drawn(owner: Hashable) -> Drawn | None:
    """What its picture is like; None: it has none."""
    peeler = _PEELERS.get(owner)
    return None if peeler is None or peeler._picture is None else peeler.drawn


def owners() -> tuple[Hashable, ...]:
    """Who has a picture."""
    return tuple(_PEELERS)


class Peeler:
    """The pictures of one owner."""

    def __init__(self) -> None:
        self.adaptation = Adaptation()
        self.drawn: Drawn | None = None
        self._pictures: list[Targets] = []  # who was drawn last is last
        self._picture: Targets | None = None
        self._footprints: Footprints | None = None
        self._scene_depth: SceneDepth | None = None
        self._scene: tuple | None = None
        self._progress: _Progress | None = None
        self._keep_alive: tuple = ()

    def update(
        self,
        instances: Sequence[Instance],
        meshes: Sequence[Mesh],
        camera: Camera,
        settings: PeelSettings,
        moving: bool,
        scene_depth: SceneDepth | None,
    ) -> bool:
        """Draw the picture, unless it is there already; whether it is as fine as it gets.

        Of another scene than the one that is shown a quick picture is drawn at once, as of a moving
        view; of the same scene finer ones, for which several calls may be needed.
        """
        scene = _identity(instances, meshes, camera, settings, scene_depth)
        shown = scene == self._scene
        finest = self.adaptation.finest(settings.layers)
        if shown and (moving or finest) and self._progress is None:
            return finest
        progress, self._progress = self._progress, None  # gone, should drawing fail
        done = False
        fresh = progress is None or moving or progress.scene != scene
        if fresh:
            quality = self.adaptation.choose(settings.layers, moving or not shown)
            if not shown:
                self._picture = self._scene = None
            progress = self.begin(
                instances, meshes, camera, settings, quality, scene_depth, scene=scene
            )
        limit = SLICE if shown and not moving else None
        if not (fresh and limit is not None and progress.seconds > limit):
            done = self._continue(progress, limit)
        if not done:
            self._progress = progress
            return False
        self.adaptation.record(progress.seconds, moving or not shown)
        self._picture, self._scene, self._scene_depth = progress.targets, scene, scene_depth
        self._keep_alive = (tuple(instances), tuple(meshes))
        self.drawn = Drawn(
            *progress.targets.size,
            progress.points,
            sum(len(one.splats) for one in instances),
            min(settings.layers, progress.quality.layers),
            progress.seconds,
        )
        return self.adaptation.finest(settings.layers)

    def peel(
        self,
        instances: Sequence[Instance],
        meshes: Sequence[Mesh],
        camera: Camera,
        settings: PeelSettings,
        quality: Quality,
        scene_depth: SceneDepth | None = None,
    ) -> Targets:
        """The picture at one quality, on the graphics device."""
        progress = self.begin(instances, meshes, camera, settings, quality, scene_depth)
        self._continue(progress, None)
        return progress.targets

    def begin(
        self,
        instances: Sequence[Instance],
        meshes: Sequence[Mesh],
        camera: Camera,
        settings: PeelSettings,
        quality: Quality,
        scene_depth: SceneDepth | None,
        scene: tuple = (),
    ) -> _Progress:
        """A picture of which everything is drawn but the points."""
        start = time.perf_counter()
        view = camera.scaled(
            -(-camera.width // quality.divisor), -(-camera.height // quality.divisor)
        )
        UPLOADS.begin_picture()
        with DrawState():
            uploads = [UPLOADS.points(instance.splats) for instance in instances]
            view, shift = in_front(view, instances, uploads)
            clips = [placed(instance, at, view) for at, instance in enumerate(instances)]
            triangles = [UPLOADS.mesh(mesh) for mesh in meshes]
            targets = self._targets_of(view)
            targets.draw_limit(triangles, view, scene_depth, shift)
            if self._footprints is None:
                self._footprints = Footprints()
            count = self._footprints.project(clips, uploads, view, settings, quality.stride)
        UPLOADS.end_picture()
        layers = min(settings.layers, quality.layers)
        passes = targets.passes(self._footprints, count, layers, settings.min_transmittance)
        points = sum(-(-len(instance.splats) // quality.stride) for instance in instances)
        seconds = time.perf_counter() - start
        return _Progress(scene, quality, targets, passes, points, seconds)

    def _continue(self, progress: _Progress, limit: float | None) -> bool:
        """Draw steps until none is left, or for about `limit` seconds; whether none is left."""
        start = time.perf_counter()
        done = False
        with DrawState():
            while not done:
                done = next(progress.passes, _DONE) is _DONE
                if done or limit is not None:
                    progress.targets.finish()
                if limit is not None and time.perf_counter() - start > limit:
                    break
        progress.seconds += time.perf_counter() - start
        return done

    def show(
        self,
        target: tuple[int, int, int, int] | None,
        space: str,
        to_scene_linear: np.ndarray | None = None,
    ) -> None:
        """Draw the last picture over the bound framebuffer; see `draw_clips`."""
        import gpu

        if self._picture is None:
            return
        with DrawState():
            finished = self._picture.resolved(space == "SCENE_LINEAR", to_scene_linear)
            viewport = gpu.state.viewport_get()
            if target is not None:
                gpu.state.viewport_set(*target)
            exact = tuple((target or viewport)[2:]) == self._picture.size
            depth = self._scene_depth or NO_SCENE
            show_picture(finished, depth, space == "ENCODED", exact)
            if target is not None:
                gpu.state.viewport_set(*viewport)

    def _targets_of(self, view: Camera) -> Targets:
        """Textures to draw to: not those that are shown, if those are to stay."""
        size = (view.width, view.height)
        free = [one for one in self._pictures if one is not self._picture]
        targets = next((one for one in free if one.size == size), None)
        if targets is not None:
            self._pictures.remove(targets)
        else:
            if len(self._pictures) >= _PICTURES:
                self._pictures.remove(free[0])
                del free
            targets = Targets(*size)
        self._pictures.append(targets)
        return targets


_DONE = object()


def _identity(
    instances: Sequence[Instance],
    meshes: Sequence[Mesh],
    camera: Camera,
    settings: PeelSettings,
    scene_depth: SceneDepth | None,
) -> tuple:
    """Equal for equal pictures, as long as the objects in it live."""
    placed = tuple(
        (id(one.splats), np.asarray(one.matrix, np.float64).tobytes(), one.opacity)
        for one in instances
    )
    view = (camera.K.tobytes(), camera.R.tobytes(), camera.t.tobytes(), camera.width)
    view += (camera.height, camera.near, camera.far, camera.orthographic)
    return placed, tuple(map(id, meshes)), view, settings, id(scene_depth)


UPLOADS = Uploads()
_PEELERS: dict[Hashable, Peeler] = {}
#: What `framebuffer_space` found out.
_SPACE: list[str] = []
