# ruff: noqa: E402 (what follows the check for bpy needs bpy)
"""The viewport without a window: its camera, its pictures against final renders, its thread."""

import gc
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

bpy = pytest.importorskip("bpy", reason="needs bpy")
from bpy_extras.view3d_utils import location_3d_to_region_2d
from mathutils import Euler, Matrix, Vector

from peel4d.addon import cameras
from peel4d.addon.import_clip import import_clip
from peel4d.addon.render import (
    color,
    pace,
    prefetch,
    view,
    viewport,
    viewport_pictures,
    viewport_request,
)
from peel4d.addon.render.render_thread import RenderThread
from peel4d.addon.render.scene import collect
from peel4d.addon.render.session import SESSION, Session
from peel4d.addon.timing import FrameMapping
from peel4d.engine.errors import ClipError, PeelError

pytestmark = pytest.mark.blender

LEVEL = 1 / 255


def frustum(left, right, bottom, top, near, far):
    """OpenGL's, as Blender builds its window matrices."""
    return Matrix(
        [
            [2 * near / (right - left), 0, (right + left) / (right - left), 0],
            [0, 2 * near / (top - bottom), (top + bottom) / (top - bottom), 0],
            [0, 0, -(far + near) / (far - near), -2 * far * near / (far - near)],
            [0, 0, -1, 0],
        ]
    )


def box(left, right, bottom, top, near, far):
    return Matrix(
        [
            [2 / (right - left), 0, 0, -(right + left) / (right - left)],
            [0, 2 / (top - bottom), 0, -(top + bottom) / (top - bottom)],
            [0, 0, -2 / (far - near), -(far + near) / (far - near)],
            [0, 0, 0, 1],
        ]
    )


def region_data(window, world):
    """What Blender keeps of a 3D view; its matrices are of single precision."""
    seen = world.inverted()
    return SimpleNamespace(
        window_matrix=window,
        view_matrix=seen,
        perspective_matrix=window @ seen,
        is_perspective=window[3][3] == 0.0,
        view_perspective="PERSP",
    )


@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(
    orthographic=st.booleans(),
    size=st.tuples(st.integers(64, 3840), st.integers(64, 2160)),
    angle=st.tuples(*[st.floats(-3.1, 3.1)] * 3),
    place=st.tuples(*[st.floats(-20, 20)] * 3),
    zoom=st.floats(0.2, 5.0),
    shift=st.tuples(st.floats(-0.8, 0.8), st.floats(-0.8, 0.8)),
    seed=st.integers(0, 1000),
)
def test_the_camera_projects_as_the_viewport(orthographic, size, angle, place, zoom, shift, seed):
    """Zoom, offset and lens shift of a camera view all move the edges of the window matrix."""
    width, height = size
    half = np.array([0.5, 0.5 * height / width]) * (5.0 if orthographic else 0.05) / zoom
    edges = np.array([-half[0], half[0], -half[1], half[1]])
    edges += np.repeat(np.array(shift) * 2 * half, 2)
    window = (box if orthographic else frustum)(
        *edges, *((-100, 100) if orthographic else (0.1, 500))
    )
    world = Matrix.LocRotScale(place, Euler(angle).to_quaternion(), None)
    data = region_data(window, world)
    camera = view.region_camera(data.window_matrix, data.view_matrix, width, height)
    assert camera.orthographic == orthographic
    region = SimpleNamespace(width=width, height=height)
    in_camera = np.random.default_rng(seed).uniform(-1, 1, (8, 3))
    depth = 3.0 + 2.0 * in_camera[:, 2]
    reach = half if orthographic else 10 * half  # the near plane is at 0.1
    x, y = in_camera[:, 0] * reach[0], in_camera[:, 1] * reach[1]
    if not orthographic:
        x, y = x * depth, y * depth
    for point in np.stack([x, y, -depth], axis=1):
        point = world @ Vector(point)
        expected = location_3d_to_region_2d(region, data, point)
        pixel, z = camera.project(np.array(point))
        assert abs(pixel[0] - expected.x) <= 0.25
        assert abs(height - pixel[1] - expected.y) <= 0.25
        assert camera.near < z < camera.far


def test_clipping_distances_of_the_matrix():
    world = Matrix.Identity(4)
    data = region_data(frustum(-0.1, 0.1, -0.1, 0.1, 0.2, 50.0), world)
    camera = view.region_camera(data.window_matrix, data.view_matrix, 100, 100)
    assert camera.near == pytest.approx(0.2, rel=1e-4)
    assert camera.far == pytest.approx(50.0, rel=1e-3)
    data = region_data(box(-1, 1, -1, 1, -30.0, 40.0), world)
    camera = view.region_camera(data.window_matrix, data.view_matrix, 100, 100)
    assert (camera.near, camera.far) == pytest.approx((-30.0, 40.0), rel=1e-5)
    exact = view.region_camera(data.window_matrix, data.view_matrix, 100, 100, (0.5, 7.0))
    assert (exact.near, exact.far) == (0.5, 7.0)


def test_a_region_that_is_not_laid_out_is_refused():
    with pytest.raises(PeelError, match="no projection yet"):
        view.region_camera(np.zeros((4, 4)), np.eye(4), 10, 10)
    with pytest.raises(PeelError, match="no view yet"):
        view.region_camera(np.array(frustum(-1, 1, -1, 1, 1, 2)), np.zeros((4, 4)), 10, 10)


def test_border_of_a_region():
    frame = (10.0, 20.0, 110.0, 70.0)
    window = view.border_window(frame, (0.1, 0.2, 0.5, 0.6), 200, 100)
    # 10 + 0.1 * 100 up to 10 + 0.5 * 100; from above 70 - 0.6 * 50 up to 70 - 0.2 * 50.
    assert window == view.Window(20, 40, 40, 20)
    assert view.border_window(frame, (-9.0, -9.0, 9.0, 9.0), 200, 100) == view.Window(
        0, 0, 200, 100
    )
    assert view.border_window(frame, (5.0, 0.0, 6.0, 1.0), 200, 100).width == 0


class View3D:
    """A scene whose camera a viewport of the render's size looks through."""

    def __init__(self, scene, path):
        self.scene = scene
        imported = import_clip(scene, scene.collection, path, up="Z")
        self.clip = imported.clip
        scene.camera = imported.cameras["cam00"]
        cameras.use_captured_format(scene, scene.camera.data)
        self.drawn = threading.Event()
        self.viewport = viewport.Viewport(SESSION, self.drawn.set)
        self.depsgraph = bpy.context.evaluated_depsgraph_get()

    def context(self):
        self.depsgraph.update()
        render, camera = self.scene.render, self.scene.camera
        width, height = view.full_size(render)
        window = camera.calc_matrix_camera(
            self.depsgraph,
            x=width,
            y=height,
            scale_x=render.pixel_aspect_x,
            scale_y=render.pixel_aspect_y,
        )
        data = region_data(window, camera.matrix_world.normalized())
        data.view_perspective = "CAMERA"
        space = SimpleNamespace(use_local_camera=False, camera=None, use_render_border=False)
        region = SimpleNamespace(width=width, height=height)
        return SimpleNamespace(region=region, region_data=data, space_data=space)

    def request(self):
        """As `view_update` and `view_draw` do, without drawing the texture."""
        context = self.context()
        self.viewport.update(self.depsgraph, None)
        return want(self.viewport, context, self.depsgraph)

    def picture(self, limit=20.0):
        """The finished picture of the newest request, scene-linear."""
        self.request()
        until = time.monotonic() + limit
        while not self.viewport.is_complete:
            assert time.monotonic() < until, "the viewport was not drawn"
            time.sleep(0.005)
        return color.scene_linear_from_clip(self.viewport.finished.picture.rgba)


def want(shown, context, depsgraph):
    """Ask a viewport for what its `draw` would ask for."""
    wanted = viewport_request.requested(context, depsgraph, shown._subject)
    shown.pictures.want(wanted)
    return wanted


@pytest.fixture
def view3d(scene, clip_path):
    view3d = View3D(scene, clip_path)
    yield view3d
    view3d.viewport.close()


def add_ring():
    bpy.ops.mesh.primitive_torus_add(major_radius=0.62, minor_radius=0.06)
    bpy.context.object.rotation_euler = (0.3, 0.1, 0.0)


@pytest.mark.parametrize("kind", ["plain", "meshes", "orthographic", "samples", "frame"])
def test_the_viewport_shows_what_is_rendered(view3d, render, kind):
    scene = view3d.scene
    if kind == "meshes":
        add_ring()
    elif kind == "orthographic":
        data = scene.camera.data
        data.type, data.ortho_scale, data.shift_x, data.shift_y = "ORTHO", 1.6, 0.06, -0.11
    elif kind == "samples":
        scene.peel4d.samples = "4"
    elif kind == "frame":
        scene.frame_set(3)
    shown = view3d.picture()
    final, _ = render()
    assert final[..., 3].max() > 0.5
    assert shown.shape == final.shape
    assert np.abs(shown - final).max() <= 2 * LEVEL


def test_a_render_border_in_camera_view(view3d, render):
    settings_ = view3d.scene.render
    settings_.use_border = settings_.use_crop_to_border = True
    settings_.border_min_x, settings_.border_max_x = 0.31, 0.83
    settings_.border_min_y, settings_.border_max_y = 0.22, 0.71
    shown = view3d.picture()
    window = view3d.viewport.finished.view.window
    final, _ = render()  # int(0.31 * 96) = 29 ... here rounded: 30
    assert (window.x, window.y) == (30, 19)
    height, width = min(len(shown), len(final)), min(shown.shape[1], final.shape[1] - 1)
    difference = shown[:height, :width] - final[:height, 1 : 1 + width]
    assert np.abs(difference).max() <= 2 * LEVEL


def test_the_camera_frame_of_a_zoomed_view(view3d):
    context = view3d.context()
    width, height = context.region.width, context.region.height
    # A region three times as large around the camera's picture, moved by an offset.
    window = Matrix(context.region_data.window_matrix)
    for row in (0, 1):
        window[row] = [value / 3.0 for value in window[row]]
    window[0][2] += 0.25
    camera = view.region_camera(
        window, context.region_data.view_matrix, 3 * width, 3 * height, (0.1, 100.0)
    )
    aspect = view3d.scene.render.pixel_aspect_y / view3d.scene.render.pixel_aspect_x
    frame = view.camera_frame(
        camera, view3d.scene.camera.evaluated_get(view3d.depsgraph), view3d.scene
    )
    assert frame[2] - frame[0] == pytest.approx(width, abs=0.05)
    assert frame[3] - frame[1] == pytest.approx(height, rel=0.05 if aspect != 1 else 1e-3)
    centre = 1.5 * width - 0.25 * 1.5 * width
    assert (frame[0] + frame[2]) / 2 == pytest.approx(centre, abs=0.1)


def test_what_has_not_changed_is_not_drawn_again(view3d):
    view3d.picture()
    first = view3d.viewport.finished
    context = view3d.context()
    want(view3d.viewport, context, view3d.depsgraph)
    time.sleep(0.05)
    assert view3d.viewport.finished is first
    assert view3d.viewport.pictures.due() is None


def test_a_moving_view_is_drawn_small_and_then_in_full(view3d, monkeypatch):
    sizes = []
    peel_view = viewport_request.peel_view

    def slow(wanted, instances, scale, *arguments):
        sizes.append(scale)
        time.sleep(0.2 * scale**2)
        return peel_view(wanted, instances, scale, *arguments)

    monkeypatch.setattr(viewport_request, "peel_view", slow)
    camera = view3d.scene.camera
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        camera.location.x += 0.001
        view3d.request()
        time.sleep(0.02)
    moving = sizes[:]
    assert len(moving) >= 5
    assert 0.35 <= moving[-1] <= 0.75, moving  # 0.2 s * s^2 = 0.06 s at s = 0.55
    view3d.picture()
    assert sizes[-1] == 1.0 and view3d.viewport.finished.fine


def test_a_slow_redraw_is_not_a_view_that_stands_still(view3d):
    """Where Blender redraws four times a second, a view that turns is not drawn in full between."""
    camera, pictures = view3d.scene.camera, view3d.viewport.pictures
    assert not pictures.moving
    for number in range(4):
        camera.location.x += 0.01
        view3d.request()
        time.sleep(0.25)
        assert pictures.moving or number == 0
    time.sleep(0.5)
    assert not pictures.moving
    camera.location.x += 0.01
    view3d.request()
    time.sleep(0.3)
    assert not pictures.moving  # a single change


def test_only_the_newest_request_is_drawn(view3d, monkeypatch):
    drawn = []
    started, go_on = threading.Event(), threading.Event()
    peel_view = viewport_request.peel_view

    def held(wanted, *arguments):
        drawn.append(wanted)
        started.set()
        assert go_on.wait(10)
        return peel_view(wanted, *arguments)

    monkeypatch.setattr(viewport_request, "peel_view", held)
    first = view3d.request()
    assert started.wait(10)
    for _ in range(5):
        view3d.scene.camera.location.x += 0.01
        last = view3d.request()
    go_on.set()
    view3d.picture()
    newest = [one.camera.t.tobytes() for one in (first, last)]
    assert {one.camera.t.tobytes() for one in drawn} <= set(newest)


def test_errors_are_texts(view3d, tmp_path, caplog):
    context = view3d.context()
    path = view3d.clip.peel4d.filepath
    view3d.clip.peel4d.filepath = str(tmp_path / "gone.p4d")
    view3d.clip.update_tag()
    view3d.depsgraph.update()
    view3d.viewport.update(view3d.depsgraph, None)
    assert "gone.p4d" in view3d.viewport.draw(context, view3d.depsgraph)
    # A frame that cannot be decoded is found out by the thread.
    data = bytearray(Path(path).read_bytes())
    at = data.index(b"frames/000000.bin") + len(b"frames/000000.bin") + 400
    data[at : at + 200] = bytes(200)
    damaged = tmp_path / "damaged.p4d"
    damaged.write_bytes(data)
    view3d.clip.peel4d.filepath = str(damaged)
    view3d.clip.update_tag()
    view3d.drawn.clear()
    view3d.request()
    assert view3d.drawn.wait(10)
    assert "damaged.p4d" in view3d.viewport.draw(context, view3d.depsgraph)
    assert view3d.viewport.pictures.due() is None, "it would be tried again and again"
    view3d.clip.peel4d.filepath = path
    view3d.clip.update_tag()
    assert view3d.picture().any()
    assert not caplog.records


def test_two_viewports_share_the_thread(view3d):
    other = viewport.Viewport(SESSION, lambda: None)
    context = view3d.context()
    other.update(view3d.depsgraph, None)
    want(other, context, view3d.depsgraph)
    shown = view3d.picture()
    until = time.monotonic() + 10
    while not other.is_complete and time.monotonic() < until:
        time.sleep(0.01)
    np.testing.assert_array_equal(color.scene_linear_from_clip(other.finished.picture.rgba), shown)
    other.close()


def test_a_closed_viewport_is_silent(view3d):
    view3d.viewport.close()
    view3d.drawn.clear()
    view3d.request()
    assert not view3d.drawn.wait(0.3)
    assert view3d.viewport.finished is None


def test_the_session_lets_go(view3d):
    view3d.picture()
    assert SESSION.thread.running
    SESSION.release()
    assert not SESSION.thread.running
    assert SESSION.clip_count == 0
    assert view3d.picture().any()  # and works again


def test_panel_lines(view3d):
    from peel4d.addon.render.display_panel import report_lines

    SESSION.viewports.add(view3d.viewport)
    add_ring()
    view3d.picture()
    lines = report_lines()
    assert any("600 points, " in line and "triangles" in line for line in lines), lines
    assert any("96 x 64" in line for line in lines), lines
    SESSION.viewports.discard(view3d.viewport)


class Stub:
    def __init__(self):
        self.when, self.drawn = 0.0, 0

    def due(self):
        return self.when

    def draw_next(self):
        self.drawn += 1
        time.sleep(0.002)


def test_the_thread_serves_everybody_and_ends():
    thread = RenderThread()
    stubs = [Stub() for _ in range(3)]
    for stub in stubs:
        thread.notify(stub)
    time.sleep(0.2)
    thread.stop()
    assert not thread.running
    counts = [stub.drawn for stub in stubs]
    assert min(counts) > 5 and max(counts) - min(counts) <= 3, counts


def test_the_thread_survives_faults(caplog):
    thread = RenderThread()
    faulty = Stub()

    def fault():
        faulty.when = None
        raise ZeroDivisionError("on purpose")

    faulty.draw_next = fault
    good = Stub()
    thread.notify(faulty)
    thread.notify(good)
    time.sleep(0.1)
    thread.stop()
    assert good.drawn > 0
    assert "on purpose" in caplog.text


@pytest.mark.parametrize("full_ms, fixed_ms", [(20.0, 0.0), (400.0, 0.0), (900.0, 20.0)])
def test_pace_holds_its_time(full_ms, fixed_ms):
    steady = pace.Pace()
    for _ in range(25):
        scale = steady.scale()
        took = (fixed_ms + full_ms * scale**2) / 1000
        steady.record(scale, took)
    if full_ms + fixed_ms < 1000 * pace.TARGET:
        assert steady.scale() == 1.0
    else:
        assert took == pytest.approx(pace.TARGET, rel=0.25)


def test_rate_is_of_the_last_movement():
    rate = pace.Rate()
    assert rate.per_second == 0.0
    for number in range(20):
        rate.count(5.0 + 0.1 * number)
    assert rate.per_second == pytest.approx(10.0)
    for number in range(3):
        rate.count(100.0 + 0.25 * number)  # after a pause
    assert rate.per_second == pytest.approx(4.0)


def test_blender_keeps_a_processor_while_the_view_moves(monkeypatch):
    monkeypatch.delenv("PEEL4D_THREADS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    assert [viewport_pictures.moving_threads(n) for n in (0, 1, 4, 8)] == [7, 1, 4, 7]
    monkeypatch.setenv("PEEL4D_THREADS", "2")
    assert viewport_pictures.moving_threads(0) == 1
    monkeypatch.setenv("PEEL4D_THREADS", "many")
    assert viewport_pictures.moving_threads(0) == 7
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3})
    assert viewport_pictures.moving_threads(0) == 1


def test_only_what_shows_is_uploaded():
    rng = np.random.default_rng(2)
    picture = np.zeros((40, 60, 4), np.float32)
    picture[10:20, 5:25] = rng.uniform(0.1, 1, (10, 20, 4))
    part, (left, bottom, width, height) = viewport_pictures.cut_out(picture)
    assert part.flags.c_contiguous
    np.testing.assert_array_equal(part, picture[9:21, 4:26])
    assert (60 * left, 40 * bottom, 60 * width, 40 * height) == pytest.approx((4, 19, 22, 12))
    picture[0, 0] = picture[-1, -1] = 1.0
    part, place = viewport_pictures.cut_out(picture)
    assert part is picture and place == (0.0, 0.0, 1.0, 1.0)
    part, place = viewport_pictures.cut_out(np.zeros((40, 60, 4), np.float32))
    assert part.shape == (1, 1, 4) and not part.any()


def test_pace_never_gets_tiny():
    slow = pace.Pace()
    for _ in range(50):
        slow.record(slow.scale(), 10.0)
    assert slow.scale() == pace.SMALLEST


@pytest.mark.parametrize(
    "last, now, step",
    [
        (None, 5.0, 1.0),
        (4.0, 5.0, 1.0),
        (5.0, 4.0, -1.0),
        (1.0, 4.0, 3.0),
        (4.0, 3.5, -0.5),
        (1.0, 90.0, 1.0),
        (90.0, 1.0, -1.0),
        (5.0, 5.0, 1.0),
    ],
)
def test_direction_of_play(last, now, step):
    assert prefetch.step_between(last, now) == step


def test_prefetched_frames():
    reader = SimpleNamespace(
        info=SimpleNamespace(frame_count=10, points=(1000,) * 10, sh_degree=1), asked=[]
    )
    reader.prefetch = lambda frame, static: reader.asked.append(frame)

    def scene_at(frame, mode="CLIP"):
        mapping = FrameMapping(sequence_mode=mode)
        item = SimpleNamespace(reader=reader, frame=frame, mapping=mapping, background=True)
        return SimpleNamespace(instances=(item, item), time=frame + 1.0)

    prefetch.prefetch(scene_at(2), 1.0)
    assert reader.asked == [3, 4, 5, 6, 7, 8]
    reader.asked.clear()
    prefetch.prefetch(scene_at(2), -1.0)
    assert reader.asked == [1, 0]
    reader.asked.clear()
    prefetch.prefetch(scene_at(8, "REPEAT"), 1.0)
    assert reader.asked == [9, 0, 1, 2, 3, 4]
    reader.asked.clear()
    prefetch.prefetch(scene_at(0), 3.0)
    assert reader.asked == [3, 6, 9]


def test_scrubbing_finds_its_frames_decoded(view3d):
    """Playing forwards, the next frame is in the cache before it is asked for."""
    view3d.picture()
    view3d.scene.frame_set(2)
    view3d.picture()
    depsgraph = view3d.depsgraph
    (item,) = collect(depsgraph, SESSION).instances
    until = time.monotonic() + 5
    while time.monotonic() < until and 2 not in item.reader._cache:
        time.sleep(0.01)
    assert {1, 2} <= set(item.reader._cache)


def test_final_frames_reuse_what_is_there(view3d, render):
    render()
    canvas = SESSION.canvas
    arrays = canvas.of_size(96, 64)
    view3d.scene.frame_set(2)
    render()
    assert canvas.of_size(96, 64) is arrays
    assert SESSION.clip_count == 1


def test_sessions_are_independent(clip_path, tmp_path):
    session = Session()
    reader = session.open(str(clip_path))
    assert session.open(str(clip_path)) is reader
    session.release()
    with pytest.raises(ClipError):
        reader.packed(0)
    gc.collect()
