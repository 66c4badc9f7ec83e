# ruff: noqa: E402 (what follows the check for bpy needs bpy)
"""Pictures that Blender writes with Peel4D against the engine's own pictures.

The cameras are the capture's, made into Blender's by `create_cameras` (test_camera.py), so every
expectation here is independent of Blender.
"""

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="needs bpy")
from mathutils import Euler, Matrix

from peel4d.addon import cameras
from peel4d.addon.import_clip import import_clip
from peel4d.addon.render import color
from peel4d.addon.render.session import SESSION
from peel4d.engine.clip.reader import ClipReader
from peel4d.engine.render.backend import Instance, render_scene
from peel4d.engine.render.settings import PeelSettings

pytestmark = pytest.mark.blender

LEVEL = 1 / 255
IDENTITY = np.eye(4)


def decoded(rgba: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1 by its text, in float64, un-premultiplied and premultiplied again."""
    rgba = rgba.astype(np.float64)
    alpha = rgba[..., 3:]
    srgb = np.divide(rgba[..., :3], alpha, out=np.zeros_like(rgba[..., :3]), where=alpha > 0)
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return np.concatenate([linear * alpha, alpha], axis=-1)


class Shot:
    """A scene with one imported clip, seen by one of its cameras."""

    def __init__(self, scene, path, view="cam00"):
        self.scene, self.path = scene, path
        imported = import_clip(scene, scene.collection, path, up="Z")
        self.clip, self.cameras = imported.clip, imported.cameras
        with ClipReader(path) as reader:
            self.frames = [reader.frame(i) for i in range(reader.info.frame_count)]
            self.info = reader.info
        self.look_from(view)

    def look_from(self, view):
        self.scene.camera = self.cameras[view]
        cameras.use_captured_format(self.scene, self.scene.camera.data)
        self.camera = next(c for c in self.info.cameras if c.name == view).camera()

    def frame(self, index=0, matrix=IDENTITY, opacity=1.0):
        return Instance(self.frames[index], matrix, opacity)

    def expected(self, *instances, camera=None, settings=None):
        instances = instances or (self.frame(),)
        return render_scene(instances, camera or self.camera, settings or self.info.settings)


@pytest.fixture
def shot(scene, clip_path):
    return Shot(scene, clip_path)


def assert_same(picture, expected):
    rgba, depth = picture
    assert rgba.shape == expected.rgba.shape
    assert expected.rgba[..., 3].max() > 0.5, "the test would compare nothing"
    assert np.abs(rgba - decoded(expected.rgba)).max() <= LEVEL
    hit = np.isfinite(expected.depth)
    # A pixel whose accumulated alpha is 0.5 up to rounding may end at the next layer.
    agree = (depth < 1e9) == hit
    assert (~agree).sum() <= 2
    both = hit & agree
    close = np.abs(depth[both] - expected.depth[both]) <= 1e-4
    assert (~close).sum() <= 2
    assert (depth[~hit & agree] == np.float32(1e10)).all()


def test_colours_for_another_working_space():
    """The matrix acts on linear light, before alpha comes back."""
    rgba = np.zeros((1, 2, 4), np.float32)
    rgba[0, 0] = (0.4, 0.2, 0.1, 0.5)
    swap = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.5]])
    result = color.scene_linear_from_clip(rgba, swap)
    plain = decoded(rgba)[0, 0]
    np.testing.assert_allclose(
        result[0, 0], [plain[1], plain[0], plain[2] / 2, 0.5], rtol=1e-5, atol=0
    )
    assert not result[0, 1].any()


@pytest.mark.parametrize("view", ["cam00", "cam01", "cam02"])
def test_exr_equals_the_engines_picture(shot, render, view):
    shot.look_from(view)
    assert_same(render(), shot.expected())


@pytest.mark.parametrize("view", ["cam00", "cam01"])
def test_png_under_standard_equals_the_engines_picture(shot, render_png, view):
    shot.look_from(view)
    png = render_png()
    premultiplied = png.copy()
    premultiplied[..., :3] *= png[..., 3:]
    assert np.abs(premultiplied - shot.expected().rgba).max() <= LEVEL


def test_opaque_film_shows_the_world_colour(shot, render):
    shot.scene.render.film_transparent = False
    black, _ = render()
    expected = decoded(shot.expected().rgba)
    assert np.abs(black[..., :3] - expected[..., :3]).max() <= LEVEL
    assert (black[..., 3] == 1.0).all()
    shot.scene.world = bpy.data.worlds.new("world")
    shot.scene.world.color = (0.1, 0.4, 0.9)
    coloured, _ = render()
    over = expected[..., :3] + (1.0 - expected[..., 3:]) * np.array([0.1, 0.4, 0.9])
    assert np.abs(coloured[..., :3] - over).max() <= LEVEL


def test_resolution_percentage(shot, render):
    shot.scene.render.resolution_percentage = 50
    assert_same(render(), shot.expected(camera=shot.camera.scaled(48, 32)))


def test_border_with_and_without_crop(shot, render):
    settings = shot.scene.render
    settings.use_border = True
    settings.border_min_x, settings.border_max_x = 0.31, 0.83
    settings.border_min_y, settings.border_max_y = 0.22, 0.71
    # int(0.31 * 96) = 29, int(0.83 * 96) = 79; rows 14 up to 45 from below, 19 up to 50 from above.
    expected = shot.expected(camera=shot.camera.crop(29, 19, 50, 31))
    settings.use_crop_to_border = True
    assert_same(render(), expected)
    settings.use_crop_to_border = False
    rgba, depth = render()
    assert rgba.shape == (64, 96, 4)
    assert_same((rgba[19:50, 29:79], depth[19:50, 29:79]), expected)
    rgba[19:50, 29:79] = 0.0
    assert not rgba.any()


def test_orthographic_with_shift(shot, render):
    data = shot.scene.camera.data
    data.type, data.ortho_scale, data.shift_x, data.shift_y = "ORTHO", 1.6, 0.06, -0.11
    shot.scene.render.pixel_aspect_x = shot.scene.render.pixel_aspect_y = 1.0
    scale = 96 / 1.6  # sensor fit horizontal: the width shows ortho_scale units
    K = np.array([[scale, 0, 48 - 0.06 * 96], [0, scale, 32 - 0.11 * 96], [0, 0, 1]])
    camera = type(shot.camera)(K, shot.camera.R, shot.camera.t, 96, 64, orthographic=True)
    assert_same(render(), shot.expected(camera=camera))


def test_clipping_distances_cut_the_points(shot, render):
    shot.scene.camera.data.clip_start = 2.1
    camera = shot.camera
    cut = type(camera)(camera.K, camera.R, camera.t, 96, 64, near=2.1)
    assert_same(render(), shot.expected(camera=cut))


@pytest.mark.parametrize("scale", [(1.0, 1.0, 1.0), (1.4, 1.4, 1.4), (0.6, 1.0, 1.3)])
def test_the_object_moves_the_clip(shot, render, scale):
    camera = shot.scene.camera
    matrix = camera.matrix_basis.copy()
    camera.parent = None
    camera.matrix_basis = matrix
    shot.clip.matrix_basis = Matrix.LocRotScale(
        (0.1, -0.15, 0.08), Euler((0.4, -0.2, 1.0)).to_quaternion(), scale
    )
    placed = np.array(shot.clip.matrix_basis, dtype=np.float64)
    assert_same(render(), shot.expected(shot.frame(matrix=placed)))


def test_cameras_follow_their_clip(shot, render):
    shot.clip.matrix_basis = Matrix.LocRotScale(
        (7.0, -3.0, 2.0), Euler((0.3, 0.9, -0.4)).to_quaternion(), (2.0, 2.0, 2.0)
    )
    rgba, depth = render()
    expected = shot.expected()
    assert np.abs(rgba - decoded(expected.rgba)).max() <= LEVEL
    hit = np.isfinite(expected.depth) & (depth < 1e9)
    assert np.median(np.abs(depth[hit] - 2.0 * expected.depth[hit])) < 1e-4


def test_two_clips_in_one_depth_order(shot, render, other_clip_path):
    other = import_clip(
        shot.scene, shot.scene.collection, other_clip_path, up="Z", set_frame_range=False
    ).clip
    other.location = (0.25, 0.1, 0.0)
    other.peel4d.opacity = 0.6
    with ClipReader(other_clip_path) as reader:
        second = Instance(reader.frame(0), np.array(other.matrix_basis), 0.6)
    second.matrix[:3, 3] = other.location
    together = shot.expected(shot.frame(), second)
    assert_same(render(), together)
    # One clip pasted over the other is another picture.
    front, back = shot.expected(shot.frame()).rgba, shot.expected(second).rgba
    pasted = front + (1.0 - front[..., 3:]) * back
    assert np.abs(pasted - together.rgba).max() > 20 * LEVEL


def test_opacity_and_its_animation(shot, render):
    clip = shot.clip.peel4d
    clip.opacity = 0.2
    clip.keyframe_insert("opacity", frame=1)
    clip.opacity = 0.8
    clip.keyframe_insert("opacity", frame=2)
    shot.scene.frame_set(1)
    assert_same(render(), shot.expected(shot.frame(0, opacity=0.2)))
    shot.scene.frame_set(2)
    assert_same(render(), shot.expected(shot.frame(1, opacity=0.8)))


def test_layers_of_the_clip_and_of_the_scene(shot, render):
    assert shot.info.settings.layers != PeelSettings().layers
    shot.scene.peel4d.layers = 2
    settings = PeelSettings(2, shot.info.settings.min_radius_px)
    expected = shot.expected(settings=settings)
    assert np.abs(expected.rgba - shot.expected().rgba).max() > 5 * LEVEL
    assert_same(render(), expected)


@pytest.mark.parametrize("samples", [None, "2", "4"])
def test_samples_of_a_pixel_and_their_default(shot, render, samples):
    if samples is None:
        shot.scene.peel4d.property_unset("samples")
    else:
        shot.scene.peel4d.samples = samples
    scene = [shot.frame()]
    settings = shot.info.settings
    expected = render_scene(scene, shot.camera, settings, samples=int(samples or 2))
    assert np.abs(expected.rgba - shot.expected().rgba).max() > 5 * LEVEL
    assert_same(render(), expected)


@pytest.mark.parametrize(
    ("scene_frame", "subframe", "settings", "clip_frame"),
    [
        (1, 0.0, {}, 0),
        (4, 0.0, {}, 3),
        (4, 0.6, {}, 4),
        (12, 0.0, {"frame_start": 10}, 2),
        (2, 0.0, {"frame_offset": 2}, 3),
        (3, 0.0, {"speed": 2.0}, 4),
        (90, 0.0, {"sequence_mode": "EXTEND"}, 4),
        (8, 0.0, {"sequence_mode": "REPEAT"}, 2),
        (7, 0.0, {"sequence_mode": "PING_PONG"}, 2),
        (50, 0.0, {"override_frame": True, "frame": 1.0}, 1),
    ],
)
def test_scene_frame_to_clip_frame(shot, render, scene_frame, subframe, settings, clip_frame):
    for name, value in settings.items():
        setattr(shot.clip.peel4d, name, value)
    shot.scene.frame_set(scene_frame, subframe=subframe)
    assert_same(render(), shot.expected(shot.frame(clip_frame)))


def test_outside_its_range_a_clip_shows_nothing(shot, render):
    shot.scene.frame_set(6)
    rgba, depth = render()
    assert not rgba.any()
    assert (depth == np.float32(1e10)).all()


def test_an_animation_shows_every_frame(shot, tmp_path):
    """What `blender -b -a` runs."""
    scene = shot.scene
    scene.render.image_settings.file_format = "PNG"
    scene.render.image_settings.color_mode = "RGBA"
    scene.render.filepath = str(tmp_path / "frame_")
    bpy.ops.render.render(animation=True)
    assert len(list(tmp_path.glob("frame_*.png"))) == 5
    for index in range(5):
        image = bpy.data.images.load(str(tmp_path / f"frame_{index + 1:04d}.png"))
        pixels = np.array(image.pixels[:]).reshape(64, 96, 4)[::-1]
        expected = shot.expected(shot.frame(index)).rgba
        assert np.abs(pixels[..., :3] * pixels[..., 3:] - expected[..., :3]).max() <= LEVEL


def test_hidden_clips_stay_out(shot, render, other_clip_path):
    scene = shot.scene
    other = import_clip(scene, scene.collection, other_clip_path, up="Z", set_frame_range=False)
    for hide in ("hide_render", "collection", "camera"):
        if hide == "hide_render":
            other.clip.hide_render = True
        elif hide == "collection":
            other.clip.hide_render = False
            hidden = bpy.data.collections.new("hidden")
            scene.collection.children.link(hidden)
            scene.collection.objects.unlink(other.clip)
            hidden.objects.link(other.clip)
            hidden.hide_render = True
        else:
            hidden.hide_render = False
            other.clip.visible_camera = False
        assert_same(render(), shot.expected())


def test_view_layers_show_their_own_collections(shot, render, other_clip_path):
    scene = shot.scene
    extra = bpy.data.collections.new("extra")
    scene.collection.children.link(extra)
    import_clip(scene, extra, other_clip_path, up="Z", set_frame_range=False)
    second = scene.view_layers.new("Second")
    scene.view_layers["ViewLayer"].layer_collection.children["extra"].exclude = True
    with ClipReader(other_clip_path) as reader:
        both = shot.expected(shot.frame(), Instance(reader.frame(0), IDENTITY))
    second.use_pass_z = True
    assert_same(render("ViewLayer"), shot.expected())
    assert_same(render("Second"), both)


def test_collection_instances(shot, render):
    scene = shot.scene
    group = bpy.data.collections.new("group")
    scene.collection.objects.unlink(shot.clip)
    group.objects.link(shot.clip)  # in no scene: shown by its instances only
    placed = []
    for index, location in enumerate([(0.0, 0.3, 0.1), (-0.2, -0.3, 0.0)]):
        empty = bpy.data.objects.new(f"instance{index}", None)
        empty.instance_type, empty.instance_collection = "COLLECTION", group
        empty.location = location
        empty.rotation_euler = (0.0, 0.0, 0.5 * index)
        scene.collection.objects.link(empty)
        bpy.context.view_layer.update()
        placed.append(shot.frame(0, np.array(empty.matrix_world, dtype=np.float64)))
    assert_same(render(), shot.expected(*placed))


def test_other_engines_do_not_show_the_box(shot, tmp_path):
    scene = shot.scene
    scene.render.engine = "CYCLES"
    scene.cycles.samples = 1
    scene.render.resolution_percentage = 25
    scene.render.filepath = str(tmp_path / "cycles.png")
    scene.render.image_settings.color_mode = "RGBA"
    bpy.ops.render.render(write_still=True)
    image = bpy.data.images.load(scene.render.filepath)
    assert not np.array(image.pixels[:]).any()


def test_fixed_threads_change_nothing(shot, render):
    shot.scene.render.threads_mode = "FIXED"
    shot.scene.render.threads = 1
    one = render()[0]
    shot.scene.render.threads_mode = "AUTO"
    assert np.array_equal(one, render()[0])


def test_a_scene_without_clips_is_empty_and_says_so(scene, render, capfd):
    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    scene.collection.objects.link(camera)
    scene.camera = camera
    rgba, _ = render()
    assert not rgba.any()
    assert "no clip is visible" in capfd.readouterr().out


def fails_with(text):
    return pytest.raises(RuntimeError, match=text)


def test_a_missing_clip_fails_the_render(shot, render):
    shot.clip.peel4d.filepath = str(shot.path.parent / "gone.p4d")
    with fails_with("gone.p4d"):
        render()
    shot.clip.peel4d.filepath = ""
    with fails_with("object 'blob': no clip file is chosen"):
        render()
    shot.clip.peel4d.filepath = str(shot.path)
    assert_same(render(), shot.expected())


def test_a_broken_clip_fails_the_render(shot, render, tmp_path):
    broken = tmp_path / "broken.p4d"
    broken.write_bytes(shot.path.read_bytes()[:1000])
    shot.clip.peel4d.filepath = str(broken)
    with fails_with("broken.p4d"):
        render()


def test_a_clip_with_a_damaged_frame_fails_at_that_frame(shot, render, tmp_path):
    data = bytearray(shot.path.read_bytes())
    at = data.index(b"frames/000003.bin") + len(b"frames/000003.bin") + 400
    data[at : at + 200] = bytes(200)
    damaged = tmp_path / "damaged.p4d"
    damaged.write_bytes(data)
    shot.clip.peel4d.filepath = str(damaged)
    shot.scene.frame_set(2)
    assert_same(render(), shot.expected(shot.frame(1)))
    shot.scene.frame_set(4)
    with fails_with("damaged.p4d"):
        render()


def test_cameras_that_cannot_render_fail(shot, render):
    shot.scene.camera.data.type = "PANO"
    with fails_with("pano cameras are not supported"):
        render()
    shot.scene.camera = None
    with fails_with("(?i)no camera"):
        render()


def test_stereoscopy_fails(shot, render):
    shot.scene.render.use_multiview = True
    with fails_with("stereoscopy is not supported"):
        render()


def test_a_fault_of_ours_fails_the_render_too(shot, render, monkeypatch):
    def fault(*_args, **_kwargs):
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr("peel4d.addon.render.picture.render_scene", fault)
    with fails_with("internal error: ZeroDivisionError: on purpose"):
        render()


def test_relative_paths_are_beside_the_blend_file(shot, render, tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "here.p4d").write_bytes(shot.path.read_bytes())
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "scene.blend"))
    shot.clip.peel4d.filepath = "//clips/here.p4d"
    assert_same(render(), shot.expected())


def test_a_clip_that_is_written_anew_is_read_anew(shot, render, tmp_path, other_clip_path):
    path = tmp_path / "live.p4d"
    path.write_bytes(shot.path.read_bytes())
    shot.clip.peel4d.filepath = str(path)
    assert_same(render(), shot.expected())
    replacement = tmp_path / "new.p4d"
    replacement.write_bytes(other_clip_path.read_bytes())
    replacement.replace(path)
    with ClipReader(other_clip_path) as reader:
        assert_same(render(), shot.expected(Instance(reader.frame(0), IDENTITY)))


def test_loading_another_file_closes_the_clips(shot, render):
    render()
    assert SESSION.clip_count == 1
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    assert SESSION.clip_count == 0


def test_decoding_is_exact_to_a_millionth():
    levels = np.linspace(0.0, 1.0, 4097, dtype=np.float32)
    exact = np.where(
        levels <= 0.04045, levels / 12.92, ((levels.astype(np.float64) + 0.055) / 1.055) ** 2.4
    )
    assert np.abs(color.srgb_to_linear(levels) - exact).max() < 1e-6
    assert color.srgb_to_linear(np.zeros((0, 3), np.float32)).shape == (0, 3)
