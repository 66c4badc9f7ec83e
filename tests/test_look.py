"""Exposure, saturation, share of the points and crop, on plain and on packed points."""

import time

import numpy as np
import pytest

from peel4d.engine.clip.morton import interleave
from peel4d.engine.errors import CoreError
from peel4d.engine.render.backend import render
from peel4d.engine.render.camera import Camera
from peel4d.engine.render.look import Look, apply_look
from peel4d.engine.render.splats import SH_C0, SH_COUNTS, PackedSplats, Quantized, Splats

NAMES = ("position", "radius", "density", "sh")


def quantized(rng, count, components, dtype=np.uint8, low=-1.0, high=1.0):
    """Random codes that lie component by component, as clips keep them."""
    levels = np.iinfo(dtype).max
    codes = rng.integers(0, levels + 1, (components, count)).astype(dtype).T
    ends = np.full(components, low), np.full(components, high)
    return Quantized(codes, low=ends[0], high=ends[1], step=(ends[1] - ends[0]) / levels)


def packed(seed=1, count=3000, degree=1, table=True):
    rng = np.random.default_rng(seed)
    radius = quantized(rng, count, 1, low=0.01, high=0.05)
    if table:
        radius = Quantized(radius.codes, table=np.geomspace(0.01, 0.05, 256))
    return PackedSplats(
        quantized(rng, count, 3, np.uint16),
        radius,
        quantized(rng, count, 1, low=0.3, high=1.0),
        quantized(rng, count, 3 * SH_COUNTS[degree], np.uint16, -0.5, 1.5),
    )


@pytest.fixture(params=["packed", "half", "plain"])
def part(request):
    points = packed()
    if request.param == "half":
        return PackedSplats.pack_half(points.unpack())
    return points if request.param == "packed" else points.unpack()


def numbers(part) -> Splats:
    return part.unpack() if isinstance(part, PackedSplats) else part


def shares(a, b) -> bool:
    """Whether two attributes are the same memory."""
    return np.shares_memory(getattr(a, "codes", a), getattr(b, "codes", b))


def grey_point(rgb) -> Splats:
    return Splats.from_colors([[0.0, 0.0, 0.0]], [0.1], [1.0], [rgb])


def test_without_a_change_the_points_are_the_same_object(part):
    assert apply_look(part, Look()) is part
    assert apply_look(part, Look(crop=np.diag([0.5, 0.5, 0.5, 1.0]))) is part
    assert apply_look(part, Look(saturation=1.0, point_density=1.0)) is part


def test_looks_compare_by_value():
    box = np.eye(4)
    assert Look(0.5, crop=box) == Look(0.5, crop=box.copy())
    assert hash(Look(0.5, crop=box)) == hash(Look(0.5, crop=box.copy()))
    assert len({Look(), Look(0.5), Look(0.5, crop=box), Look(0.5, crop=2 * box), Look(0.0)}) == 4
    assert Look() != "look"
    look = Look(crop=box)
    box[0, 0] = 7.0
    assert look.crop[0, 0] == 1.0, "a look does not change with the array it was made from"


@pytest.mark.parametrize(
    "arguments",
    [
        {"exposure": np.nan},
        {"exposure": 100.0},
        {"saturation": -0.1},
        {"saturation": np.inf},
        {"point_density": 0.0},
        {"point_density": 1.5},
        {"crop": np.eye(3)},
        {"crop": np.full((4, 4), np.nan)},
    ],
)
def test_values_out_of_range_are_refused(arguments):
    with pytest.raises(CoreError):
        Look(**arguments)


def test_a_stop_doubles_the_light_of_a_display():
    """Of gamma 2.2: (2^(1/2.2) c)^2.2 = 2 c^2.2."""
    color = np.array([0.3, 0.2, 0.1])
    for stops in (-2.0, 1.0, 1.5):
        brighter = apply_look(grey_point(color), Look(exposure=stops)).sh[0, 0] * SH_C0
        np.testing.assert_allclose(brighter**2.2, 2.0**stops * color**2.2, rtol=1e-6)


def test_saturation_moves_between_luma_and_twice_the_colour():
    color = np.array([0.6, 0.3, 0.1])
    luma = 0.2126 * 0.6 + 0.7152 * 0.3 + 0.0722 * 0.1
    for saturation in (0.0, 0.4, 2.0):
        shown = apply_look(grey_point(color), Look(saturation=saturation)).sh[0, 0] * SH_C0
        np.testing.assert_allclose(shown, luma + saturation * (color - luma), rtol=1e-6, atol=1e-7)
    grey = np.full(3, 0.4)
    shown = apply_look(grey_point(grey), Look(saturation=0.3)).sh[0, 0] * SH_C0
    np.testing.assert_allclose(shown, grey, rtol=1e-6)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_every_coefficient_is_multiplied_by_the_matrix(degree):
    look = Look(exposure=0.7, saturation=0.4)
    gain = 2 ** (0.7 / 2.2)
    w = np.array([0.2126, 0.7152, 0.0722])
    matrix = gain * (0.4 * np.eye(3) + 0.6 * np.outer(np.ones(3), w))
    np.testing.assert_allclose(look.color_matrix, matrix, rtol=1e-12)
    points = packed(degree=degree)
    plain = points.unpack()
    expected = plain.sh.astype(np.float64) @ matrix.T
    # float32 products and sums of values up to 3.
    np.testing.assert_allclose(numbers(apply_look(plain, look)).sh, expected, atol=2e-6)
    # Codes of 16 bits for a range of 2 * 2^(0.7 / 2.2): half a step.
    np.testing.assert_allclose(
        numbers(apply_look(points, look)).sh, expected, atol=2 * gain / 131070 + 2e-6
    )
    half = PackedSplats.pack_half(plain)
    expected = half.unpack().sh.astype(np.float64) @ matrix.T
    np.testing.assert_allclose(numbers(apply_look(half, look)).sh, expected, atol=2e-6)


def test_codes_beyond_the_end_of_their_range_stay_there():
    codes = np.array([[0, 100, 255], [10, 200, 7]], np.uint8)
    sh = Quantized(codes, low=np.zeros(3), high=np.array([1.0, 0.5, 0.0]), step=np.full(3, 0.01))
    points = PackedSplats(np.zeros((2, 3)), np.ones(2), np.ones(2), sh)
    look = Look(saturation=0.2)
    expected = points.unpack().sh.astype(np.float64) @ look.color_matrix.T
    shown = apply_look(points, look).unpack().sh
    np.testing.assert_allclose(shown, expected, atol=1.0 / 131070 + 1e-6)


@pytest.mark.parametrize("saturation", [0.0, 0.3, 1.7, 10.0])
def test_mixed_codes_stay_codes(saturation):
    """Of half the size of float32, and with strong saturation, which has negative weights, too."""
    points = packed(degree=3)
    look = Look(saturation=saturation)
    shown = apply_look(points, look)
    assert isinstance(shown.sh, Quantized) and shown.sh.codes.dtype == np.uint16
    assert shown.sh.codes.T.flags.c_contiguous
    reach = 2.0 * np.abs(look.color_matrix).sum(axis=1).max()
    expected = points.unpack().sh.astype(np.float64) @ look.color_matrix.T
    np.testing.assert_allclose(numbers(shown).sh, expected, atol=reach / 131070 + 1e-5)


def test_what_does_not_change_is_shared(part):
    brighter = apply_look(part, Look(exposure=1.0))
    assert type(brighter) is type(part)
    assert all(shares(getattr(brighter, name), getattr(part, name)) for name in NAMES[:3])
    gain = 2 ** (1 / 2.2)
    np.testing.assert_allclose(numbers(brighter).sh, numbers(part).sh * gain, atol=3e-7)
    grey = apply_look(part, Look(saturation=0.0))
    assert all(shares(getattr(grey, name), getattr(part, name)) for name in NAMES[:3])


def test_exposure_alone_keeps_the_codes():
    points = packed()
    brighter = apply_look(points, Look(exposure=-1.0))
    assert brighter.sh.codes is points.sh.codes


@pytest.mark.parametrize("share", [0.01, 0.25, 0.5, 0.9, 0.999])
def test_a_share_is_even_nested_and_the_same_every_time(part, share):
    shown = apply_look(part, Look(point_density=share))
    count = len(part)
    assert abs(len(shown) - share * count) <= 3  # a golden ratio sequence strays by log N / 2
    again = apply_look(part, Look(point_density=share))
    assert np.array_equal(numbers(again).position, numbers(shown).position)
    whole = numbers(part)
    where = {tuple(p): i for i, p in enumerate(whole.position.tolist())}
    kept = np.array([where[tuple(p)] for p in numbers(shown).position.tolist()])
    assert (np.diff(kept) > 0).all(), "in their order"
    more = apply_look(part, Look(point_density=min(1.0, share * 1.3)))
    assert set(kept) <= {where[tuple(p)] for p in numbers(more).position.tolist()}
    # Even: the three distance theorem allows three different gaps.
    assert len(set(np.diff(kept))) <= 3
    np.testing.assert_allclose(
        numbers(shown).radius, whole.radius[kept] / np.sqrt(share), rtol=2e-7
    )
    assert np.array_equal(numbers(shown).density, whole.density[kept])
    assert np.array_equal(numbers(shown).sh, whole.sh[kept])


def test_a_share_of_the_points_covers_as_much_of_the_picture():
    rng = np.random.default_rng(5)
    direction = rng.normal(size=(20_000, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    # The order of clips, in which neighbours in space are neighbours.
    order = np.argsort(interleave(((direction + 1) * 1000).astype(np.uint64)))
    ball = Splats.from_colors(
        direction[order], np.full(20_000, 0.025), np.ones(20_000), np.full((20_000, 3), 0.5)
    )
    K = np.array([[150.0, 0, 80], [0, 150.0, 80], [0, 0, 1]])
    camera = Camera(K, np.eye(3), np.array([0, 0, 3.0]), 160, 160)
    whole = render(ball, camera).rgba[..., 3]
    inside = whole > 0.99
    assert inside.sum() > 5000
    for share in (0.5, 0.2, 0.1):
        some = render(apply_look(ball, Look(point_density=share)), camera).rgba[..., 3]
        # Chosen by chance, a tenth of them lets 1.3 % of the light through.
        assert some[inside].mean() > 0.993


def test_crop_removes_the_points_outside(part):
    matrix = np.linalg.inv(
        np.array([[0.5, 0.2, 0, 0.1], [-0.2, 0.6, 0, 0], [0, 0.1, 0.4, -0.2], [0, 0, 0, 1]])
    )
    shown = apply_look(part, Look(crop=matrix))
    whole = numbers(part)
    local = whole.position.astype(np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
    inside = (np.abs(local) <= 1.0).all(axis=1)
    near = np.abs(np.abs(local).max(axis=1) - 1.0) < 1e-6  # rounding of float32 may move these
    assert not near.any() and 100 < inside.sum() < 2900
    assert type(shown) is type(part) and len(shown) == inside.sum()
    assert shown.nbytes < part.nbytes
    for name in NAMES:
        expected = getattr(whole, name)[inside]
        assert np.array_equal(getattr(numbers(shown), name), expected), name


def test_the_border_of_the_crop_is_inside():
    points = Splats.from_colors(
        [[1.0, 0, 0], [1.0, 1, -1], [1.0000001, 0, 0]], np.ones(3), np.ones(3), np.zeros((3, 3))
    )
    assert len(apply_look(points, Look(crop=np.eye(4)))) == 2


def test_a_crop_may_leave_nothing(part):
    away = np.eye(4)
    away[0, 3] = 100.0
    shown = apply_look(part, Look(0.5, 0.5, 0.5, away))
    assert len(shown) == 0 and type(shown) is type(part)
    assert apply_look(shown, Look(0.5, 0.5, 0.5, away)) is shown


def test_everything_at_once_is_one_after_the_other(part):
    crop = np.diag([2.0, 1.5, 1.2, 1.0])
    together = numbers(apply_look(part, Look(0.3, 0.7, 0.6, crop)))
    steps = part
    for look in (Look(point_density=0.6), Look(crop=crop), Look(saturation=0.7), Look(0.3)):
        steps = apply_look(steps, look)
    steps = numbers(steps)
    for name in NAMES[:3]:
        assert np.array_equal(getattr(together, name), getattr(steps, name)), name
    np.testing.assert_allclose(together.sh, steps.sh, atol=1e-6)


def test_pictures_of_packed_points_are_those_of_plain_ones():
    points = packed(count=800)
    K = np.array([[90.0, 0, 48], [0, 90.0, 32], [0, 0, 1]])
    camera = Camera(K, np.eye(3), np.array([0, 0, 3.0]), 96, 64)
    look = Look(0.4, 0.5, 0.8, np.diag([1.2, 1.2, 1.2, 1.0]))
    a = render(apply_look(points, look), camera).rgba
    b = render(apply_look(points.unpack(), look), camera).rgba
    assert a[..., 3].max() > 0.5
    # Radii that are scaled before or after the rounding of their table: 1e-7 relative.
    assert np.abs(a - b).max() < 1e-4


def test_it_is_quick_enough_for_every_frame():
    """Time of the processor, which others cannot make long: 262,144 points take 2 to 5 ms."""
    points = packed(count=262_144)
    crop = np.diag([1.1, 1.1, 1.1, 1.0])
    for look in (
        Look(1.0),
        Look(saturation=0.5),
        Look(point_density=0.5),
        Look(0.5, 0.5, 0.5, crop),
    ):
        apply_look(points, look)
        best = np.inf
        for _ in range(5):
            started = time.process_time()
            apply_look(points, look)
            best = min(best, time.process_time() - started)
        assert best < 0.030, look
