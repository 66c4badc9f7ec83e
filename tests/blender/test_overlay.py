# ruff: noqa: E402 (what follows the check for bpy needs bpy)
"""The overlay without a window: its draw handler is called with contexts made up here."""

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="the add-on needs bpy")
from peel4d.addon.import_clip import import_clip
from peel4d.addon.render import gl_peel, loading, overlay
from peel4d.addon.render.gl_context import read_color
from peel4d.addon.render.session import SESSION
from peel4d.engine.clip.reader import ClipReader
from peel4d.engine.render.backend import Instance, render_scene
from peel4d.engine.render.settings import PeelSettings

pytestmark = pytest.mark.blender

WIDTH, HEIGHT = 160, 100
#: Blending in 8 bits comes to what the peel may differ by.
TOLERANCE = 3 / 255


def context(**changes) -> SimpleNamespace:
    """A 3D viewport in Solid mode that looks at the origin along +y."""
    view = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, -2.0], [0, 0, 0, 1]])
    near, far = 0.01, 1000.0
    window = np.zeros((4, 4))
    window[0, 0], window[1, 1], window[3, 2] = 1.6, 1.6 * WIDTH / HEIGHT, -1
    window[2, 2:] = -(far + near) / (far - near), -2 * far * near / (far - near)
    space = next(
        area.spaces[0]
        for screen in bpy.data.screens
        for area in screen.areas
        if area.type == "VIEW_3D"
    )
    values = {
        "scene": bpy.context.scene,
        "screen": SimpleNamespace(is_animation_playing=False),
        "region": SimpleNamespace(width=WIDTH, height=HEIGHT, as_pointer=lambda: 77),
        "region_data": SimpleNamespace(
            window_matrix=window, view_matrix=view, view_perspective="PERSP"
        ),
        "space_data": space,
        "evaluated_depsgraph_get": bpy.context.evaluated_depsgraph_get,
        "window_manager": SimpleNamespace(windows=[]),
    }
    return SimpleNamespace(**(values | changes))


@pytest.fixture
def draw(scene, monkeypatch):
    """draw(context) calls the handler; afterwards nothing is left of it."""
    scene.render.engine = "BLENDER_WORKBENCH"
    redraws = []
    timers = SimpleNamespace(register=lambda *args, **kwargs: redraws.append(args))

    def call(**changes):
        blender = SimpleNamespace(context=context(**changes), app=SimpleNamespace(timers=timers))
        monkeypatch.setattr(overlay, "bpy", blender)
        overlay.OVERLAY.draw()
        until = time.monotonic() + 20
        while any(view.loading.busy for view in overlay.OVERLAY.views.values()):
            assert time.monotonic() < until, "the points were not decoded"
            time.sleep(0.002)
        if any(view.polls for view in overlay.OVERLAY.views.values()):
            redraws.pop()[0]()  # it would tag the region
            overlay.OVERLAY.draw()

    call.redraws = redraws
    overlay.OVERLAY.release()
    yield call
    overlay.OVERLAY.release()
    gl_peel.release_all()


@pytest.fixture
def clip(scene, clip_path):
    return import_clip(scene, scene.collection, clip_path, cameras=False).clip


class Viewport:
    """The framebuffer of a draw handler: sRGB over the background with alpha 0, and a depth."""

    def __init__(self, gpu, grey: float):
        size = (WIDTH, HEIGHT)
        self._textures = (
            gpu.types.GPUTexture(size, format="SRGB8_A8"),
            gpu.types.GPUTexture(size, format="DEPTH_COMPONENT32F"),
        )
        self.grey = grey
        self.buffer = gpu.types.GPUFrameBuffer(
            color_slots=(self._textures[0],), depth_slot=self._textures[1]
        )

    def clear(self, depth: float = 1.0) -> None:
        linear = ((self.grey + 0.055) / 1.055) ** 2.4
        self.buffer.clear(color=(linear, linear, linear, 0.0), depth=depth)

    def read(self) -> np.ndarray:
        return read_color(self.buffer, WIDTH, HEIGHT)[::-1]


def expected_over(grey: float, clip, clip_path) -> np.ndarray:
    """What the core draws from the same place."""
    with ClipReader(clip_path) as reader:
        parts = reader.packed(0)
        settings = PeelSettings(
            layers=reader.info.settings.layers, min_radius_px=reader.info.settings.min_radius_px
        )
    matrix = np.array(clip.matrix_world, dtype=np.float64)
    seen = context()
    camera = overlay._camera(seen)
    instances = [Instance(part, matrix) for part in parts]
    rgba = render_scene(instances, camera, settings, backend="cpu").rgba
    return rgba[..., :3] + (1 - rgba[..., 3:]) * grey


def test_clips_are_drawn_over_the_viewport(graphics, draw, clip, clip_path, monkeypatch):
    viewport = Viewport(graphics, 0.6)
    monkeypatch.setattr(overlay, "_STILL_AFTER", 0.0)
    with viewport.buffer.bind():
        for _ in range(6):  # the first finds out what the framebuffer is like and leaves a pixel
            viewport.clear()
            draw()
    assert overlay.OVERLAY.problem is None
    differs = np.abs(viewport.read()[..., :3] - expected_over(0.6, clip, clip_path)).max(axis=-1)
    assert differs.min() < TOLERANCE
    assert (differs > TOLERANCE).mean() <= 1e-3
    assert viewport.read()[..., 3].max() > 0.9


def test_a_background_is_hidden(graphics, draw, scene, room_path, monkeypatch):
    clip = import_clip(scene, scene.collection, room_path, cameras=False).clip
    viewport = Viewport(graphics, 0.6)
    monkeypatch.setattr(overlay, "_STILL_AFTER", 0.0)
    corner = {}
    for shown in (True, False):
        clip.peel4d.show_background = shown
        with viewport.buffer.bind():
            for _ in range(6):
                viewport.clear()
                draw()
        assert overlay.OVERLAY.problem is None
        corner[shown] = viewport.read()[2:20, 2:20, :3]
        assert np.abs(viewport.read()[HEIGHT // 2, WIDTH // 2, :3] - 0.6).max() > 0.05
    assert np.abs(corner[False] - 0.6).max() <= TOLERANCE
    assert np.abs(corner[True] - 0.6).mean() > 0.1


def test_decoding_does_not_wait(graphics, draw, clip, scene, monkeypatch):
    """While points are decoded the viewport keeps the picture that it has, and looks again."""
    viewport = Viewport(graphics, 0.6)
    decoding, go_on = threading.Event(), threading.Event()
    points = type(SESSION).points

    def slow(*arguments):
        decoding.set()
        assert go_on.wait(20)
        return points(*arguments)

    with viewport.buffer.bind():
        viewport.clear()
        draw()
        viewport.clear()
        draw()
        before = viewport.read()
        assert before[..., 3].max() > 0.5
        with monkeypatch.context() as patch:
            patch.setattr(type(SESSION), "points", slow)
            patch.setattr(loading, "decoded", lambda _clips: False)  # it was prefetched
            scene.frame_set(3)
            viewport.clear()
            overlay.OVERLAY.draw()
            assert decoding.wait(20)
            (view,) = overlay.OVERLAY.views.values()
            assert view.loading.busy and view.polls
            assert overlay.OVERLAY._redraw_when_loaded(77) == overlay._POLL
            np.testing.assert_allclose(viewport.read()[..., 3] > 0, before[..., 3] > 0)
            go_on.set()
            until = time.monotonic() + 20
            while view.loading.busy and time.monotonic() < until:
                time.sleep(0.005)
        assert overlay.OVERLAY._redraw_when_loaded(77) is None and not view.polls
        viewport.clear()
        draw()
    assert (np.abs(viewport.read() - before) > 0.1).any()


def test_decoded_frames_are_shown_at_once(graphics, draw, clip, scene):
    """While a clip plays its frames are decoded ahead: no second redraw for each of them."""
    viewport = Viewport(graphics, 0.6)
    with viewport.buffer.bind():
        viewport.clear()
        draw()
        (view,) = overlay.OVERLAY.views.values()
        (item,) = overlay._collect(context()).instances
        until = time.monotonic() + 20
        while not item.reader.decoded(2) and time.monotonic() < until:
            time.sleep(0.005)
        before = view.seen
        scene.frame_set(3)
        overlay.OVERLAY.draw()
        assert not view.loading.busy and not view.polls
        assert view.seen[0] != before[0]


def test_what_stands_before_the_clip_hides_it(graphics, draw, clip):
    viewport = Viewport(graphics, 0.6)
    with viewport.buffer.bind():
        viewport.clear()
        draw()
        viewport.clear(depth=0.0)
        before = viewport.read()
        draw()
    np.testing.assert_array_equal(viewport.read(), before)


@pytest.mark.parametrize(
    "how", ["hide_viewport", "hide_set", "exclude", "overlay", "RENDERED", "MATERIAL"]
)
def test_what_is_not_drawn(graphics, draw, clip, scene, how):
    seen = {}
    if how == "hide_viewport":
        clip.hide_viewport = True
    elif how == "hide_set":
        clip.hide_set(True)
    elif how == "exclude":
        collection = bpy.data.collections.new("hidden")
        scene.collection.children.link(collection)
        scene.collection.objects.unlink(clip)
        collection.objects.link(clip)
        bpy.context.view_layer.layer_collection.children["hidden"].exclude = True
    elif how == "overlay":
        scene.peel4d.overlay = False
    else:
        scene.render.engine = "PEEL4D"
        seen["space_data"] = SimpleNamespace(shading=SimpleNamespace(type=how))
    viewport = Viewport(graphics, 0.5)
    with viewport.buffer.bind():
        viewport.clear()
        before = viewport.read()
        draw(**seen)
    np.testing.assert_array_equal(viewport.read(), before)
    assert overlay.OVERLAY.problem is None
    assert gl_peel.owners() == ()


def test_local_view_and_local_collections_are_asked_for(clip, scene, monkeypatch):
    asked = []

    def collect(depsgraph, session, visible):
        asked.extend(visible(item.object) for item in depsgraph.object_instances)

    monkeypatch.setattr(overlay, "collect", collect)
    bpy.context.view_layer.update()
    overlay._collect(context())
    clip.hide_set(True)
    bpy.context.view_layer.update()
    overlay._collect(context())
    assert asked == [True]  # what is hidden is not in the depsgraph


def test_a_missing_file_is_a_note_and_comes_back(graphics, draw, clip, capsys, clip_path):
    clip.peel4d.filepath = "/nowhere/missing.p4d"
    clip.update_tag()  # as the user interface does it
    viewport = Viewport(graphics, 0.5)
    with viewport.buffer.bind():
        viewport.clear()
        for _ in range(3):
            draw()
        assert "missing.p4d" in overlay.OVERLAY.problem
        assert capsys.readouterr().out.count("missing.p4d") == 1
        assert overlay.PEEL4D_VIEW3D_PT_overlay_problem.poll(bpy.context)
        clip.peel4d.filepath = str(clip_path)
        clip.update_tag()
        draw()
    assert overlay.OVERLAY.problem is None
    assert not overlay.PEEL4D_VIEW3D_PT_overlay_problem.poll(bpy.context)


def test_a_fault_is_not_tried_again_until_something_changes(
    graphics, draw, clip, scene, monkeypatch, capsys
):
    calls = []

    def broken(*args, **kwargs):
        calls.append(1)
        raise RuntimeError("the driver says no")

    viewport = Viewport(graphics, 0.5)
    with viewport.buffer.bind(), monkeypatch.context() as patch:
        viewport.clear()
        patch.setattr(gl_peel, "draw_clips", broken)
        for _ in range(3):
            draw()
        assert len(calls) == 1
        assert "the driver says no" in overlay.OVERLAY.problem
        scene.frame_set(2)
        draw()
        assert len(calls) == 2
    with viewport.buffer.bind():
        scene.frame_set(1)
        draw()
    assert overlay.OVERLAY.problem is None
    assert capsys.readouterr().out.count("the driver says no") == 1


def test_a_picture_that_is_not_complete_asks_for_another(graphics, draw, clip, monkeypatch):
    monkeypatch.setattr(gl_peel, "draw_clips", lambda *args, **kwargs: False)
    viewport = Viewport(graphics, 0.5)
    with viewport.buffer.bind():
        viewport.clear()
        draw()
        draw()  # one redraw is on its way already
        assert len(draw.redraws) == 1
        draw.redraws[0][0]()
        draw()
        assert len(draw.redraws) == 2
        overlay.OVERLAY.release()
        draw.redraws[1][0]()  # of a viewport that is gone


def test_views_of_closed_regions_are_freed(graphics, draw, clip):
    viewport = Viewport(graphics, 0.5)
    with viewport.buffer.bind():
        viewport.clear()
        draw()
        assert gl_peel.owners() == (("overlay", 77),)
        draw(region=SimpleNamespace(width=WIDTH, height=HEIGHT, as_pointer=lambda: 78))
    assert gl_peel.owners() == (("overlay", 78),)


def test_the_background_is_read_beside_the_scene(monkeypatch):
    """A gradient with a line of the grid across and a mesh at the left side."""
    gradient = np.linspace(0.2, 0.6, 60, dtype=np.float32)
    column = np.repeat(gradient[:, None, None], 4, axis=2)
    column[30:32] = 0.9
    monkeypatch.setattr(overlay, "read_color", lambda *args: column)
    window = np.ones((60, 40), np.float32)
    window[:25, 0] = 0.9
    backdrop = overlay._backdrop(None, window)
    np.testing.assert_allclose(backdrop, np.repeat(gradient[:, None], 3, axis=1), atol=0.06)
    window[:] = 0.5
    assert overlay._backdrop(None, window).max() == 0


def test_register_leaves_nothing_behind(registered, scene, clip):
    handlers = list(bpy.app.handlers.load_pre)
    overlay.unregister()
    try:
        assert overlay.OVERLAY.handle is None
        assert len(bpy.app.handlers.load_pre) == len(handlers) - 1
        assert not hasattr(bpy.types, "PEEL4D_VIEW3D_PT_overlay_problem")
        assert gl_peel.owners() == ()
    finally:
        overlay.register()
    assert overlay.OVERLAY.handle is not None
    assert len(bpy.app.handlers.load_pre) == len(handlers)


def test_another_file_frees_the_device(graphics, draw, clip):
    viewport = Viewport(graphics, 0.5)
    with viewport.buffer.bind():
        viewport.clear()
        draw()
    assert len(gl_peel.UPLOADS) > 0
    bpy.ops.wm.read_factory_settings(use_empty=True)
    assert len(gl_peel.UPLOADS) == 0
    assert gl_peel.owners() == ()
    assert SESSION.clip_count == 0
