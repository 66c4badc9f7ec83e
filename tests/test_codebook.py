"""The codebook codec: streams without loss, codes chosen by importance, and what damage does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from chunk_header import with_header
from test_clip_fields import made_field, made_frames

from peel4d.engine.clip.codebook import (
    Base,
    Changes,
    decode_base,
    decode_changes,
    encode_base,
    encode_changes,
)
from peel4d.engine.clip.codecs import FieldPoints
from peel4d.engine.clip.field_shape import shape_header
from peel4d.engine.clip.fragment import EncodedField, EncodedFragment
from peel4d.engine.clip.plane_field import PLANE_PAIRS
from peel4d.engine.clip.plane_labels import CLUSTERED, KEPT, decode_classes, encode_classes
from peel4d.engine.clip.reader import ClipReader
from peel4d.engine.clip.writer import write_clip
from peel4d.engine.errors import ClipError
from peel4d.engine.train.codebook import (
    CodebookSettings,
    build_base,
    shape_of,
    texel_importance,
)
from peel4d.engine.train.vector_quantization import cluster

SETTINGS = CodebookSettings(sharing=4)


def made_importance(field, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    sizes = [sum(h * w for h, w in group) for group in shape_of(field).group_sizes]
    # Many orders of magnitude, and a third that nobody sees.
    return [10 ** random.uniform(-8, 2, n) * (random.random(n) > 0.33) for n in sizes]


@pytest.fixture
def field():
    return made_field(steps=6)


@pytest.fixture
def base(field) -> Base:
    return build_base(field, made_importance(field), SETTINGS)


def made_changes(base: Base, first: int, seed: int = 0, share: float = 0.2) -> Changes:
    random = np.random.default_rng(seed)
    changed = [(random.random(len(g.classes)) < share) & (g.classes != 0) for g in base.groups]
    codes = [
        random.integers(-127, 128, (own.sum(), base.shape.channels)).astype(np.int16)
        for own in changed
    ]
    return Changes(first, changed, codes)


def test_a_base_comes_back_bit_by_bit(field, base):
    member = encode_base(base, shape_header(field))
    again = decode_base(member.data, "base")
    for one, other in zip(base.groups, again.groups, strict=True):
        assert one.step == other.step
        for name in ("entries", "kept", "classes", "index"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    np.testing.assert_array_equal(base.heads, again.heads)
    assert sum(member.nbytes.values()) < len(member.data)
    assert encode_base(again, shape_header(field)).data == member.data


def test_changes_come_back_bit_by_bit(field, base):
    changes = made_changes(base, 2)
    member = encode_changes(base, changes)
    decoded = decode_changes(member.data, base, "fragment")
    assert decoded.first == 2
    number = 0
    for level, planes in enumerate(decoded.levels):
        for kind in (0, 1):
            group = base.groups[number]
            expected = group.codes()
            expected[changes.changed[number]] = changes.codes[number]
            flat = np.concatenate([p.reshape(-1, p.shape[2]) for p in planes[kind::2]])
            np.testing.assert_array_equal(flat, expected * np.float32(group.step), str(level))
            number += 1
    # The base itself stays as it is for the next fragment.
    nothing = decode_changes(encode_changes(base, made_changes(base, 0, share=0)).data, base, "f")
    np.testing.assert_array_equal(nothing.levels[0][0], base.field().levels[0][0])


def test_the_time_of_a_fragment_begins_where_it_begins(base):
    position = np.random.default_rng(0).uniform(-1, 1, (50, 3)).astype(np.float32)
    whole, later = base.field(), base.field(first=2)
    for step in (0, 1, 3):
        for one, other in zip(
            later.evaluate(step, position), whole.evaluate(step + 2, position), strict=True
        ):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("sizes", [[[(5, 7), (2, 2)], [(3, 2)]], [[(2, 9)], [(8, 8), (2, 3)]]])
def test_classes_come_back(sizes):
    random = np.random.default_rng(1)
    groups = [
        random.integers(0, 3, sum(h * w for h, w in group)).astype(np.uint8) for group in sizes
    ]
    turns = list(encode_classes(groups, sizes))
    assert sum(len(symbols) for symbols, _, _ in turns) == sum(map(len, groups))
    waiting = iter(turns)

    def read(count, contexts, context_count):
        symbols, known, most = next(waiting)
        assert (count, context_count) == (len(symbols), most)
        np.testing.assert_array_equal(contexts, known)  # the decoder knows no more than that
        return symbols

    for one, other in zip(decode_classes(sizes, read), groups, strict=True):
        np.testing.assert_array_equal(one, other)


def test_importance_is_the_gradient_of_interpolated_ones():
    """Against autograd: the derivative of sum of weights times samples, by planes of ones."""
    field = made_field(steps=3)
    frames = made_frames([field], 3, 200)
    random = np.random.default_rng(4)
    weights = [random.random(len(splats)) for splats in frames]
    groups = texel_importance(field, frames, weights)
    number = 0
    for planes in field.levels:
        for kind in (0, 1):
            found = []
            for pair, axes in enumerate(PLANE_PAIRS):
                h, w = planes[2 * pair + kind].shape[:2]
                plane = torch.ones(1, 1, h, w, dtype=torch.float64, requires_grad=True)
                for step, (splats, weight) in enumerate(zip(frames, weights, strict=True)):
                    where = field.unit(splats.position).astype(np.float64) * 2 - 1
                    time = np.full(len(splats), step / 2 * 2 - 1.0)
                    columns = [*where.T, time]
                    grid = np.stack([columns[a] for a in axes[kind]], axis=1)
                    sampled = torch.nn.functional.grid_sample(
                        plane, torch.from_numpy(grid)[None, None], align_corners=True
                    )
                    (torch.from_numpy(weight) * sampled[0, 0, 0]).sum().backward()
                found.append(plane.grad.numpy().ravel())
            np.testing.assert_allclose(groups[number], np.concatenate(found), atol=1e-4)
            number += 1


def test_what_matters_keeps_its_code(field):
    importance = made_importance(field)
    base = build_base(field, importance, SETTINGS)
    shares = {"zero": 0.0, "all": 0.0}
    for number, (group, weight) in enumerate(zip(base.groups, importance, strict=True)):
        level, kind = divmod(number, 2)
        planes = field.levels[level][kind::2]
        values = np.concatenate([plane.reshape(-1, plane.shape[2]) for plane in planes])
        kept = group.classes == KEPT
        alive = group.classes != 0
        assert kept.sum() == round(SETTINGS.keep * alive.sum())
        assert weight[kept].min() >= weight[group.classes == CLUSTERED].max()
        error = np.abs(group.codes()[kept] * group.step - values[kept])
        assert error.max() <= 0.5 * group.step + 1e-6
        assert np.abs(group.codes()).max() <= 127
        assert not group.codes()[~alive].any()
        shares["zero"] += weight[~alive].sum()
        shares["all"] += weight.sum()
        assert (weight[~alive].sum()) <= SETTINGS.zero * weight.sum()
    assert shares["zero"] <= SETTINGS.zero * shares["all"]


def test_clusters_are_found_and_none_is_empty():
    random = np.random.default_rng(5)
    centers = random.normal(0, 5, (12, 6))
    vectors = np.concatenate([c + random.normal(0, 0.05, (40, 6)) for c in centers])
    codes, nearest = cluster(vectors, random.uniform(0.5, 1, len(vectors)), 12, seed=3)
    assert len(codes) == 12 and sorted(np.unique(nearest)) == list(range(12))
    assert np.abs(codes[nearest] - vectors).max() < 0.4  # a seed anew for every empty code
    few, chosen = cluster(vectors[:3], np.ones(3), 8)
    np.testing.assert_allclose(few[chosen], vectors[:3], atol=1e-4)
    assert cluster(np.zeros((0, 4)), np.zeros(0), 5)[0].shape == (0, 4)


def test_heavy_vectors_pull_their_code():
    vectors = np.array([[0.0], [1.0]])
    codes, _ = cluster(vectors, np.array([99.0, 1.0]), 1, rounds=200)
    assert codes[0, 0] == pytest.approx(0.01, abs=0.005)


def clip_of(path, field, base, fragments):
    member = encode_base(base, shape_header(field))
    decoded = decode_base(member.data, "base")
    encoded = [
        EncodedFragment(encode_changes(decoded, made_changes(decoded, first, first)), count, 0)
        for first, count in fragments
    ]
    frames = made_frames([field], 6)
    encoder = FieldPoints(EncodedField("codebook", encoded, [member]))
    write_clip(path, frames, fps=10, encoder=encoder)
    return path, encoder


def test_a_clip_of_one_base_and_three_fragments(tmp_path, field, base):
    path, _ = clip_of(tmp_path / "clip.p4d", field, base, [(0, 2), (2, 3), (5, 1)])
    with ClipReader(path) as reader:
        assert [(f.first, f.frames, f.base) for f in reader.info.fragments] == [
            (0, 2, 0),
            (2, 3, 0),
            (5, 1, 0),
        ]
        rows = {row.name: row.nbytes for row in reader.info.attributes if row.scope == "fragment"}
        assert rows["dynamic codes"] > 0 and rows["codebook"] > 0
        assert sum(rows.values()) < reader.shared_nbytes
        in_turn = [reader.packed(index)[0].unpack() for index in range(6)]
        expected = decode_changes(
            encode_changes(base, made_changes(base, 2, 2)).data, base, "f"
        ).evaluate(1, in_turn[3].position)
        np.testing.assert_array_equal(in_turn[3].radius, expected[0])
        np.testing.assert_array_equal(in_turn[3].density, expected[1])
    with ClipReader(path, cache_frames=1) as reader:
        for index in (5, 0, 3, 1, 4, 2):
            again = reader.packed(index)[0].unpack()
            for name in ("position", "radius", "density", "sh"):
                np.testing.assert_array_equal(getattr(again, name), getattr(in_turn[index], name))


def test_a_fragment_without_its_base_is_refused(base):
    member = encode_changes(base, made_changes(base, 0))
    with pytest.raises(ClipError, match="no base"):
        decode_changes(member.data, None, "fragment")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("steps", [0.1]),
        ("steps", [0.1, 0.1, 0.0, 0.1]),
        ("entries", [1, 1, 1]),
        ("entries", [1 << 20, 1, 1, 1]),
        ("centers", [[0]] * 4),
        ("centers", 3),
        ("lowest", 1 << 20),
        ("channels", 7),
        ("head_steps", []),
        ("streams", []),
        ("compression", "none"),
        ("planes", [[[1 << 13, 1 << 13]] * 6] * 2),
    ],
)
def test_a_wrong_header_of_a_base_is_refused(field, base, key, value):
    data = with_header(
        encode_base(base, shape_header(field)).data, lambda header: header.update({key: value})
    )
    with pytest.raises(ClipError, match="here"):
        decode_base(data, "here")


@pytest.mark.parametrize(
    ("key", "value"),
    [("first", -1), ("first", 1 << 30), ("lowest", 0.5), ("streams", []), ("compression", 3)],
)
def test_a_wrong_header_of_a_fragment_is_refused(base, key, value):
    data = with_header(
        encode_changes(base, made_changes(base, 0)).data, lambda header: header.update({key: value})
    )
    with pytest.raises(ClipError, match="here"):
        decode_changes(data, base, "here")


def test_a_stream_may_not_claim_more_than_it_has(field, base):
    data = encode_base(base, shape_header(field)).data
    for key, value in (("alphabet", 1 << 30), ("alphabet", 0), ("tables", 1 << 20), ("bytes", -1)):
        for stream in range(6):
            broken = with_header(
                data, lambda h, s=stream, k=key, v=value: h["streams"][s].update({k: v})
            )
            with pytest.raises(ClipError, match="here"):
                decode_base(broken, "here")


def test_damage_is_refused_or_gives_a_field(field, base):
    """Every cut and 1,500 flips each: an error or another field, never a crash."""
    random = np.random.default_rng(0)
    whole = encode_base(base, shape_header(field)).data
    fragment = encode_changes(base, made_changes(base, 0)).data
    position = random.uniform(-1, 1, (20, 3)).astype(np.float32)
    for data, decode in (
        (whole, lambda d: decode_base(d, "here").field()),
        (fragment, lambda d: decode_changes(d, base, "here")),
    ):
        for length in range(0, len(data), 11):
            with pytest.raises(ClipError, match="here"):
                decode(data[:length])
        refused = 0
        for _ in range(1500):
            broken = bytearray(data)
            for place in random.integers(0, len(data), random.integers(1, 4)):
                broken[place] ^= 1 << random.integers(8)
            try:
                with np.errstate(all="ignore"):
                    radius, _, _ = decode(bytes(broken)).evaluate(0, position)
                assert radius.shape == (20,)
            except ClipError as error:
                assert "here" in str(error)
                refused += 1
        assert refused > 1000


def test_heads_keep_ten_bits(field, base):
    at = 0
    for layer in field.layers:
        own = base.heads[at : at + layer.size].reshape(layer.shape)
        at += layer.size
        assert np.abs(own - layer).max() <= np.abs(layer).max() / 1022 * 1.01


def test_a_zero_plane_needs_no_codes(field):
    importance = [np.zeros_like(own) for own in made_importance(field)]
    base = build_base(field, importance, SETTINGS)
    member = encode_base(base, shape_header(field))
    again = decode_base(member.data, "base")
    assert not any(group.codes().any() for group in again.groups)
    assert replace(again.field(), first=0).levels[0][0].shape == field.levels[0][0].shape
