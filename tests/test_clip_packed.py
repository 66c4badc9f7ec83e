"""The codes of a clip go to the renderer as they are, and mean what docs/clip-format.md says."""

from __future__ import annotations

import gc
import json
import math
import struct
import threading
import tracemalloc

import numpy as np
import pytest
import zstandard
from chunk_header import with_header
from hypothesis import given, settings
from hypothesis import strategies as st

from peel4d.engine.clip import planes
from peel4d.engine.clip.chunk import encode_chunk
from peel4d.engine.clip.decode import decode_chunk, decode_packed
from peel4d.engine.clip.quantize import Precision
from peel4d.engine.clip.reader import ClipReader
from peel4d.engine.clip.writer import write_clip
from peel4d.engine.errors import ClipError
from peel4d.engine.render.backend import Instance, render, render_scene
from peel4d.engine.render.camera import Camera
from peel4d.engine.render.splats import SH_COUNTS, PackedSplats, Quantized, Splats

NAMES = ("position", "radius", "density", "sh")


def cloud(count: int, seed: int = 0, degree: int = 1) -> Splats:
    rng = np.random.default_rng(seed)
    return Splats(
        rng.normal(size=(count, 3)),
        rng.uniform(0.01, 0.05, count),
        rng.uniform(0.1, 1, count),
        rng.normal(size=(count, SH_COUNTS[degree], 3)),
    )


def assert_same_bits(a: Splats, b: Splats) -> None:
    for name in NAMES:
        first, second = (getattr(splats, name).view(np.uint32) for splats in (a, b))
        np.testing.assert_array_equal(first, second)


def part_arrays(packed: PackedSplats) -> list[np.ndarray]:
    values = [getattr(packed, name) for name in NAMES]
    return [value.codes if isinstance(value, Quantized) else value for value in values]


def split(data: bytes) -> tuple[dict, bytes]:
    length = struct.unpack_from("<I", data, 4)[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def joined(header: dict, payload: bytes) -> bytes:
    text = json.dumps(header).encode()
    return b"P4DB" + struct.pack("<I", len(text)) + text + payload


def decoded_as_specified(data: bytes, degree: int) -> Splats:
    """docs/clip-format.md read literally, in Python's integers of any size; for valid chunks."""
    header, payload = split(data)
    count, offset = header["points"], 0
    values = {"sh": np.zeros((count, 3 * SH_COUNTS[degree]), np.float32)}
    for block in header["blocks"]:
        raw = []
        for size in block["planes"]:
            raw.append(zstandard.decompress(payload[offset : offset + size]))
            offset += size
        low, high = block["low"], block["high"]
        if block["name"] == "position":
            codes = np.cumsum([sum(p[n] << 8 * k for k, p in enumerate(raw)) for n in range(count)])
            cells = np.zeros((count, 3))
            for n, code in enumerate(codes.tolist()):
                for bit in range(63):
                    cells[n, bit % 3] += (code >> bit & 1) << bit // 3
            position = np.minimum(np.array(low) + cells * block["step"], high)
            values["position"] = position.astype(np.float32)
            continue
        result = np.full((block["components"], count), low, dtype=np.float32)
        if block["levels"]:
            nbytes = 1 if block["levels"] < 256 else 2 if block["levels"] < 65536 else 4
            codes = words_to_codes(raw, nbytes, block["delta"], block["color"])
            step = (high - low) / block["levels"]
            if block["scale"] == "log":
                step = (math.log(high) - math.log(low)) / block["levels"]
                result = np.exp(math.log(low) + step * codes).astype(np.float32)
                result = np.clip(result, np.float32(low), np.float32(high))
            else:
                result = codes.astype(np.float32) * np.float32(step) + np.float32(low)
                result = np.minimum(result, np.float32(high))
        if block["name"] == "sh":
            values["sh"][:, block["first"] : block["first"] + block["components"]] = result.T
        else:
            values[block["name"]] = result[0]
    values["sh"] = values["sh"].reshape(count, -1, 3)
    return Splats(**values)


def words_to_codes(raw: list[bytes], nbytes: int, delta: bool, color: bool) -> np.ndarray:
    """Planes of one block -> codes (C, N) int64."""
    octets = np.array([list(plane) for plane in raw]).reshape(-1, nbytes, len(raw[0]))
    words = sum(octets[:, k] << 8 * k for k in range(nbytes))
    if nbytes > 1 and (delta or color):
        words = np.where(words % 2, -(words + 1) // 2, words // 2)
    if delta:
        words = np.cumsum(words, axis=1)
    if color:
        words[0::3] += words[1::3]
        words[2::3] += words[1::3]
    return words % (1 << 8 * nbytes)


@st.composite
def chunks(draw) -> tuple[bytes, int, int]:
    """Any chunk an encoder may write, its points and a degree to decode it to."""
    degree, count = draw(st.integers(0, 3)), draw(st.integers(1, 30))
    splats = cloud(count, draw(st.integers(0, 1 << 16)), degree)
    position, radius, density, sh = (getattr(splats, name).copy() for name in NAMES)
    position *= draw(st.sampled_from([1, 1e-3, 1e4, 0]))
    if draw(st.booleans()):
        position[0] = [1000, -3, 0]  # an outlier: a grid of more than 16 bits
    if draw(st.booleans()):
        radius[:] = 0.25
    if draw(st.booleans()):
        density[:] = 1
    for band in draw(st.sets(st.integers(0, degree))):
        sh[:, band * band : (band + 1) ** 2] = draw(st.sampled_from([0, -0.75]))
    precision = Precision(
        draw(st.sampled_from([1 / 32, 1e-3])),
        draw(st.sampled_from([0.005, 0.1, 1e-5])),
        draw(st.sampled_from([1 / 255, 1e-4, 1e-7])),
        draw(st.sampled_from([1 / 512, 0.1, 1e-6])),
        draw(st.sampled_from([1 / 256, 0.1, 1e-6])),
    )
    data = encode_chunk(Splats(position, radius, density, sh), precision, "test").data
    return data, count, draw(st.integers(degree, 3))


@settings(max_examples=300, deadline=None)
@given(chunk=chunks())
@pytest.mark.filterwarnings("error")
def test_every_chunk_decodes_as_specified(chunk):
    data, count, degree = chunk
    packed = decode_packed(data, count, degree, "test")
    assert len(packed) == count and packed.sh_degree == degree
    expected = decoded_as_specified(data, degree)
    assert_same_bits(packed.unpack(), expected)
    assert_same_bits(decode_chunk(data, count, degree, "test"), expected)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
@pytest.mark.filterwarnings("error")
def test_damaged_codes_never_decode_to_anything_absurd(data):
    """Whatever arrives with valid checksums gives finite values, as codes and as numbers."""
    chunk, count, degree = data.draw(chunks())
    header, payload = split(chunk)
    damaged, offset = [], 0
    for block in header["blocks"]:
        for index, size in enumerate(block["planes"]):
            raw = bytearray(zstandard.decompress(payload[offset : offset + size]))
            offset += size
            if data.draw(st.integers(0, 3)) == 0:
                raw[data.draw(st.integers(0, count - 1))] = data.draw(st.integers(0, 255))
            damaged.append(zstandard.compress(bytes(raw)))
            block["planes"][index] = len(damaged[-1])
        block["bytes"] = sum(block["planes"])
    try:
        packed = decode_packed(joined(header, b"".join(damaged)), count, degree, "a.p4d")
    except ClipError as error:
        assert "outside the grid" in str(error)
        return
    splats = packed.unpack()
    assert len(splats) == count and splats.radius.min() > 0 and splats.density.max() <= 1
    assert all(np.isfinite(getattr(splats, name)).all() for name in NAMES)


def test_codes_stay_codes():
    """What a renderer gets of an ordinary frame, and that it takes the bytes it says."""
    count = 4000
    data = encode_chunk(cloud(count, degree=2), Precision(), "test").data
    tracemalloc.start()
    packed = decode_packed(data, count, 3, "test")
    gc.collect()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    for name, components in zip(NAMES, (3, 1, 1, 48), strict=True):
        codes = getattr(packed, name).codes
        assert codes.shape == (count, components)
        assert codes.T.flags.c_contiguous and not codes.flags.writeable
    assert [c.dtype.itemsize for c in part_arrays(packed)] == [2, 2, 1, 2]
    assert packed.radius.table is not None and packed.density.table is None
    sh = packed.sh
    assert (sh.codes[:, 27:] == 0).all() and sh.codes[:, :27].any(axis=0).all()
    for row in (sh.low, sh.high, sh.step):
        assert row.shape == (48,) and (row[27:] == 0).all() and row[:27].all()
    assert packed.nbytes == pytest.approx(count * (6 + 2 + 1 + 96), rel=0.01)
    assert held == pytest.approx(packed.nbytes, rel=0.01)


def test_what_does_not_fit_sixteen_bits_is_decoded():
    splats = cloud(300)
    position = splats.position.copy()
    position[7] = [0, 900, 0]
    stretched = Splats(position, splats.radius, splats.density, splats.sh)
    fine = Precision(density=1e-7, color=1e-6, shading=1e-6)
    packed = decode_packed(encode_chunk(stretched, fine, "test").data, 300, 1, "test")
    assert [a.dtype for a in part_arrays(packed)] == [np.float32, np.uint16, np.float32, np.float32]
    assert [a.shape for a in part_arrays(packed)] == [(300, 3), (300, 1), (300,), (300, 4, 3)]
    assert not any(a.flags.writeable for a in part_arrays(packed))


def test_the_widest_grid_of_sixteen_bits():
    """Cells 0 and 65,535 on every axis are codes; one cell more and positions are decoded."""
    corners = np.array(np.meshgrid([-1, 2], [-1, 2], [-1, 2]), dtype=np.float32).reshape(3, 8).T
    one = np.ones(8, np.float32)
    splats = Splats(corners, one, one, np.zeros((8, 1, 3)))
    for cells, dtype in ((65536, np.uint16), (65537, np.float32)):
        data = encode_chunk(splats, Precision(position=3 / (cells - 1)), "test").data
        packed = decode_packed(data, 8, 0, "test")
        assert part_arrays(packed)[0].dtype == dtype
        assert {tuple(p) for p in packed.unpack().position} == {tuple(p) for p in corners}
        if dtype == np.uint16:
            assert set(np.unique(packed.position.codes)) == {0, 65535}


def test_scales_that_this_encoder_does_not_write():
    """Any scale may be on any block: a radius in equal steps, density and SH in ratios."""
    splats = cloud(60)
    sh = np.abs(splats.sh) + 0.1
    chunk = encode_chunk(
        Splats(splats.position, splats.radius, splats.density, sh), Precision(), "t"
    )

    def exchange(header):
        for block in header["blocks"][1:]:
            block["scale"] = {"log": "linear", "linear": "log"}[block["scale"]]

    data = with_header(chunk.data, exchange)
    packed = decode_packed(data, 60, 1, "test")
    assert packed.radius.table is None and packed.density.table is not None
    assert packed.sh.dtype == np.float32
    assert_same_bits(packed.unpack(), decoded_as_specified(data, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h["blocks"][0].pop("first"), "'first' is missing"),
        (lambda h: h["blocks"][0].update(first=[]), "'first' is not"),
        (lambda h: h["blocks"][1].update(first=1), "'first' is not"),
        (lambda h: h["blocks"][1].update(components=2), "'components' is not"),
        (lambda h: h["blocks"][4].update(first=0), "'first' is not of a block of its own"),
        (lambda h: h["blocks"][0].update(step=1), "outside the grid"),
    ],
)
def test_blocks_that_say_something_else(change, message):
    chunk = encode_chunk(cloud(50), Precision(position=1e-4), "test")
    with pytest.raises(ClipError, match=message):
        decode_packed(with_header(chunk.data, change), 50, 1, "a.p4d")


@pytest.mark.parametrize("count", [1, 99, 100, 101, 1234])
def test_frames_larger_than_a_piece(monkeypatch, count):
    """Positions are decoded piece by piece; the cut shows nowhere."""
    data = encode_chunk(cloud(count, degree=0), Precision(), "test").data
    whole = decode_chunk(data, count, 0, "test")
    monkeypatch.setattr(planes, "_PIECE", 100)
    assert_same_bits(decode_chunk(data, count, 0, "test"), whole)


def test_no_points():
    chunk = encode_chunk(Splats.empty(), Precision(), "test")
    packed = decode_packed(chunk.data, 0, 2, "test")
    assert len(packed) == 0 and packed.sh_degree == 2 and len(packed.unpack()) == 0


def test_static_points_are_a_part_of_their_own(tmp_path):
    path = tmp_path / "clip.p4d"
    write_clip(path, [cloud(20), cloud(30, 1)], fps=25, static=cloud(500, 2, degree=0))
    with ClipReader(path) as reader:
        (own, static), (_, again) = reader.packed(0), reader.packed(1)
        assert (len(own), len(static)) == (20, 500) and static is again
        assert own.sh_degree == static.sh_degree == 1
        assert reader.packed(0, static=False) == (own,)
        frame = reader.frame(0)
        for name in NAMES:
            parts = [getattr(part.unpack(), name) for part in (own, static)]
            np.testing.assert_array_equal(np.concatenate(parts), getattr(frame, name))
    with ClipReader(path) as reader:
        reader.prefetch(0, static=False)
        reader.packed(0, static=False)
        assert reader.decoded(0, static=False) and not reader.decoded(0)
    write_clip(path, [cloud(20)], fps=25)
    with ClipReader(path) as reader:
        assert len(reader.packed(0)) == 1


def test_parts_draw_the_picture_of_the_frame(tmp_path):
    """Two instances of one matrix are the frame's points one after the other, ties included."""
    path = tmp_path / "clip.p4d"
    own = cloud(300)
    own = Splats(own.position, own.radius * 6, own.density, own.sh)
    # Every static point is at the place of one of the frame's and of another colour.
    static = Splats(own.position, own.radius, own.density, own.sh[::-1])
    write_clip(path, [own], fps=25, static=static)
    K = np.array([[90, 0, 64], [0, 90, 48], [0, 0, 1.0]])
    camera = Camera(K, np.eye(3), np.array([0, 0, 5.0]), 128, 96)
    with ClipReader(path) as reader:
        parts = [Instance(part, np.eye(4)) for part in reader.packed(0)]
        together = render_scene(parts, camera, backend="cpu")
        alone = render(reader.frame(0), camera, backend="cpu")
        swapped = render_scene(parts[::-1], camera, backend="cpu")
    assert (together.rgba != swapped.rgba).any()
    np.testing.assert_array_equal(together.rgba, alone.rgba)
    np.testing.assert_array_equal(together.depth, alone.depth)


def test_a_damaged_static_part_names_its_member(tmp_path):
    path = tmp_path / "clip.p4d"
    write_clip(path, [cloud(20)], fps=25, static=cloud(500, 2))
    content = bytearray(path.read_bytes())
    content[content.index(b"static.bin") + 3000] ^= 1
    path.write_bytes(content)
    with ClipReader(path) as reader:
        reader.prefetch(0)
        for _ in range(2):
            with pytest.raises(ClipError, match=r"static\.bin: wrong checksum"):
                reader.packed(0)


def test_prefetching_keeps_to_the_newest_requests(tmp_path, monkeypatch):
    """Scrubbing asks for more than anybody waits for: what has not begun makes room."""
    path = tmp_path / "clip.p4d"
    write_clip(path, [cloud(20, seed) for seed in range(9)], fps=25)
    monkeypatch.setattr("os.cpu_count", lambda: 4)  # two threads
    with ClipReader(path, cache_frames=3) as reader:
        decode, decoded = reader._decode, []
        begun, go = threading.Semaphore(0), threading.Event()

        def slow(name, points, frame):
            decoded.append(int(name[7:13]))
            begun.release()
            assert go.wait(30)
            return decode(name, points, frame)

        monkeypatch.setattr(reader, "_decode", slow)
        reader.prefetch(0)
        reader.prefetch(1)
        for _ in range(2):
            assert begun.acquire(timeout=30)
        for index in range(2, 9):
            reader.prefetch(index)
        assert sorted(decoded) == [0, 1]  # and only frame 8 waits
        go.set()
        assert [len(reader.packed(i)[0]) for i in (8, 0, 1)] == [20] * 3
        assert sorted(decoded) == [0, 1, 8]
        assert len(reader.packed(5)[0]) == 20  # dropped, and there when it is asked for


def test_nothing_is_prefetched_that_would_not_be_kept(tmp_path):
    path = tmp_path / "clip.p4d"
    write_clip(path, [cloud(20)], fps=25)
    threads = threading.active_count()
    with ClipReader(path, cache_frames=0) as reader:
        reader.prefetch(0)
        assert threading.active_count() == threads
        assert reader.packed(0)[0] is not reader.packed(0)[0]
