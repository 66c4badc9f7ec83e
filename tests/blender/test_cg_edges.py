# ruff: noqa: E402 (what follows the check for bpy needs bpy)
"""Edges of CG before a clip: no light of what is behind the clip may shine through them."""

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="needs bpy")
from composite_shot import edge_band, encoded, picture, prepare

from peel4d.addon.composite.nodes import existing_tree
from peel4d.addon.render.cg_edges import EDGE, OUTSIDE, edges_of_cg
from peel4d.addon.render.color import scene_linear_from_clip
from peel4d.engine.clip.clip import ClipCamera
from peel4d.engine.clip.reader import ClipReader
from peel4d.engine.clip.writer import write_clip
from peel4d.engine.render.backend import Instance, render_scene
from peel4d.engine.render.mesh import Mesh
from peel4d.engine.render.settings import PeelSettings
from peel4d.engine.render.splats import Splats

pytestmark = pytest.mark.blender
__all__ = ["picture"]  # a fixture

SKY, DARK = np.ones(3), np.full(3, 0.03)
#: Samples along a pixel of the picture that is taken for the truth.
FINE = 8


@pytest.fixture
def dark_shot(scene, tmp_path):
    """A dark opaque ball with a dark ring around it before a white world, and its files."""
    path = tmp_path / "ball.p4d"
    rng = np.random.default_rng(0)
    direction = rng.normal(size=(30_000, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    ball = Splats.from_colors(
        direction * 0.45,
        np.full(30_000, 0.03),
        np.ones(30_000),
        np.tile([0.1, 0.1, 0.15], (30_000, 1)),
    )
    K = np.array([[330.0, 0.0, 144.0], [0.0, 330.0, 96.0], [0.0, 0.0, 1.0]])
    R = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    view = ClipCamera("cam00", K, R, np.array([0.0, 0.0, 2.2]), 288, 192, True)
    write_clip(path, [ball], fps=24.0, cameras=(view,), settings=PeelSettings(layers=12))
    shot = prepare(scene, path)
    shot.world.node_tree.nodes["Background"].inputs["Color"].default_value = (*SKY, 1.0)
    material = shot.objects["ring"].data.materials[0]
    material.node_tree.nodes["Emission"].inputs["Color"].default_value = (*DARK, 1.0)
    shot.cycles.samples = 64
    return shot, path


def truth(shot, path):
    """All of it peeled together in fine samples, averaged in linear light; where the ring's edges
    are before the ball, and all its edges."""
    ring = shot.objects["ring"]
    ring.data.calc_loop_triangles()
    matrix = np.array(ring.matrix_world, dtype=np.float64)
    vertices = np.array([v.co for v in ring.data.vertices]) @ matrix[:3, :3].T + matrix[:3, 3]
    triangles = np.array([t.vertices for t in ring.data.loop_triangles])
    mesh = Mesh(vertices, triangles, encoded(DARK))
    with ClipReader(path) as reader:
        camera, settings = reader.info.cameras[0].camera(), reader.info.settings
        points = [Instance(reader.frame(0), np.eye(4))]
    width, height = camera.width, camera.height
    fine = camera.scaled(width * FINE, height * FINE)
    linear = scene_linear_from_clip(render_scene(points, fine, settings, meshes=[mesh]).rgba)
    linear = linear[..., :3] + (1.0 - linear[..., 3:]) * SKY
    alone = render_scene([], camera, meshes=[mesh])
    ball = render_scene(points, camera, settings)
    before = alone.depth < ball.depth - 0.05
    edges = edge_band(before) & (ball.rgba[..., 3] > 0.99)
    outline = edge_band(np.isfinite(alone.depth))
    return linear.reshape(height, FINE, width, FINE, 3).mean((1, 3)), edges, outline


def test_nothing_shines_through(dark_shot, picture):
    shot, path = dark_shot
    assert bpy.ops.scene.peel4d_composite(samples="4") == {"FINISHED"}
    mended = picture(shot, 1)
    expected, edges, outline = truth(shot, path)
    assert edges.sum() > 300

    def error(result):
        return 255 * np.abs(encoded(result[..., :3]) - encoded(expected)).max(axis=-1)[edges]

    tree = existing_tree(shot)
    factor = next(s for s in tree.nodes["Peel4D Mended Edges"].inputs if s.type == "VALUE")
    tree.links.remove(factor.links[0])
    factor.default_value = 0.0
    bare = picture(shot, 1)
    assert error(bare).mean() > 5.0 and error(bare).max() > 60.0, "there was nothing to mend"
    assert error(mended).mean() < 1.5 and error(mended).max() < 25.0
    touched = np.abs(mended - bare).max(axis=-1) > 0
    assert touched.any() and not touched[~(outline | edge_band(outline))].any()


def planes(near=2.0, far=4.0):
    """Depths of a slanted plane behind a nearer half plane."""
    y, x = np.mgrid[:12, :16]
    depth = 1.0 / (1.0 / far + 0.004 * x + 0.006 * y)
    return np.where(x < 8, near, depth)


def test_only_where_surfaces_end():
    """The clip covers all; a slanted plane behind thin parts of it is no edge."""
    depth = planes()
    free = np.ones(depth.shape)
    held = np.where(np.arange(16) < 8, 0.0, 0.6) * np.ones(depth.shape)
    held[:, 7] = 0.5
    found = edges_of_cg(held, free, depth)
    assert (found[EDGE] > 0).any(axis=0).nonzero()[0].tolist() == [7, 8, 9]
    assert found[OUTSIDE].all(axis=0).nonzero()[0].tolist() == list(range(6, 16))
    assert not edges_of_cg(held, free, np.where(np.isfinite(depth), depth[:, 15:], 0.0))


def test_nothing_where_no_pixel_shows_cg_alone():
    """A wire before the clip: there is no colour to mend it with."""
    depth = planes()
    depth[:, :7] = depth[:, 8:] = 4.0
    free = np.ones(depth.shape)
    held = np.where(np.arange(16) == 7, 0.5, 1.0) * free
    assert edges_of_cg(held, free, depth) == {}
    assert edges_of_cg(free, free, np.full(depth.shape, np.inf)) == {}


def test_edges_are_mended_as_far_as_the_clip_is_opaque():
    depth = planes()
    depth[:, 8:] = np.inf
    free = np.tile(np.linspace(0.2, 1.0, 12)[:, None], (1, 16))
    held = np.where(np.arange(16) < 7, 0.0, 1.0) * free
    held[:, 7] = 0.5 * free[:, 7]
    found = edges_of_cg(held, free, depth)[EDGE]
    np.testing.assert_allclose(found[:, 7], free[:, 7], rtol=1e-6)
    assert not found[:, 9:].any() and not found[:, :7].any()
