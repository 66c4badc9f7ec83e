"""Damaged, foreign and hostile clips give a ClipError that names file and member, nothing else."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import zstandard
from chunk_header import with_header
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peel4d.engine.clip import compression
from peel4d.engine.clip.chunk import encode_chunk
from peel4d.engine.clip.clip import ClipCamera
from peel4d.engine.clip.decode import decode_chunk
from peel4d.engine.clip.quantize import Precision
from peel4d.engine.clip.reader import ClipReader
from peel4d.engine.clip.writer import write_clip
from peel4d.engine.errors import ClipError, OutputError
from peel4d.engine.render.splats import Splats


def cloud(count: int, seed: int = 0) -> Splats:
    rng = np.random.default_rng(seed)
    return Splats(
        rng.normal(size=(count, 3)),
        rng.uniform(0.01, 0.05, count),
        rng.uniform(0.1, 1, count),
        rng.normal(size=(count, 4, 3)),
    )


def arrays(splats: Splats) -> list[bytes]:
    return [a.tobytes() for a in (splats.position, splats.radius, splats.density, splats.sh)]


def read_all(path: Path) -> list[list[bytes]]:
    with ClipReader(path) as reader:
        for index in range(reader.info.frame_count):
            reader.frame_nbytes(index)
        return [arrays(reader.frame(index)) for index in range(reader.info.frame_count)]


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """Two frames of a few points and one camera. Do not write into it."""
    path = tmp_path_factory.mktemp("clip") / "small.p4d"
    camera = ClipCamera("a", np.eye(3), np.eye(3), np.zeros(3), 64, 48)
    write_clip(path, [cloud(5, 0), cloud(4, 1)], fps=25, cameras=[camera], up=[0, 0, 1])
    return path


def repacked(source: Path, target: Path, changes: dict[str, bytes | None]) -> Path:
    """A valid archive with other members; None removes one."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        members = {name: old.read(name) for name in old.namelist()} | changes
        for name, data in members.items():
            if data is not None:
                new.writestr(name, data)
    return target


def with_head(source: Path, target: Path, **changes: object) -> Path:
    """The clip with other values in clip.json; keys like render__layers reach inside."""
    head = json.loads(zipfile.ZipFile(source).read("clip.json"))
    for key, value in changes.items():
        *path, last = key.split("__")
        inside = head
        for part in path:
            inside = inside[int(part) if part.isdigit() else part]
        inside[last] = value
    return repacked(source, target, {"clip.json": json.dumps(head).encode()})


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
@pytest.mark.filterwarnings("error")
def test_flipped_bytes_are_noticed_or_harmless(small, tmp_path_factory, data):
    content = bytearray(small.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        # Three of four flips go to the directory, where nothing has a checksum.
        low = data.draw(st.sampled_from([0, *[len(content) - 300] * 3]))
        content[data.draw(st.integers(low, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.getbasetemp() / "flipped.p4d"
    path.write_bytes(content)
    try:
        result = read_all(path)
    except ClipError as error:
        assert "flipped.p4d" in str(error)
    else:
        assert result == read_all(small)


def test_truncated_files_are_refused(small, tmp_path):
    content = small.read_bytes()
    with zipfile.ZipFile(small) as archive:
        starts = [entry.header_offset for entry in archive.infolist()] + [archive.start_dir]
    edges = {cut + d for cut in [*starts, len(content)] for d in (-1, 0, 1, 4, 29, 30, 60)}
    path = tmp_path / "cut.p4d"
    for cut in sorted({0, 1, 3, 4, 22, *edges, *range(0, len(content), 97)}):
        if 0 <= cut < len(content):
            path.write_bytes(content[:cut])
            with pytest.raises(ClipError, match=r"cut\.p4d"):
                read_all(path)


def test_a_file_that_shrinks_while_it_is_open(small, tmp_path):
    path = tmp_path / "clip.p4d"
    path.write_bytes(small.read_bytes())
    with ClipReader(path) as reader:
        path.write_bytes(b"PK\x03\x04")
        with pytest.raises(ClipError, match=r"frames/000001\.bin"):
            reader.frame(1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no ZIP archive"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "no ZIP archive"),
        (b"PK\x03\x04" + bytes(500), "directory is damaged"),
    ],
)
def test_files_that_are_no_archives(tmp_path, content, message):
    path = tmp_path / "foreign.p4d"
    path.write_bytes(content)
    with pytest.raises(ClipError, match=message) as caught:
        ClipReader(path)
    assert caught.value.where == str(path) and caught.value.hint


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(ClipError, match="cannot open"):
        ClipReader(tmp_path / "nothing.p4d")
    with pytest.raises(ClipError, match="cannot open"):
        ClipReader(tmp_path)


def test_foreign_archives(tmp_path, small):
    path = tmp_path / "foreign.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "<x/>")
    with pytest.raises(ClipError, match=r"without clip\.json"):
        ClipReader(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("clip.json", "{}")
    with pytest.raises(ClipError, match="stored"):
        ClipReader(path)
    for text, message in [
        (b"{}", "not a Peel4D clip"),
        (b"[1]", "not a JSON object"),
        (b"\xff\xfe", "not valid JSON"),
        (b'{"schema": NaN}', "NaN is not JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "clip.json"),
    ]:
        with pytest.raises(ClipError, match=message):
            ClipReader(repacked(small, path, {"clip.json": text}))


def test_two_members_of_one_name(small, tmp_path):
    path = tmp_path / "twice.p4d"
    path.write_bytes(small.read_bytes())
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("frames/000000.bin", b"")
    with pytest.raises(ClipError, match="twice"):
        ClipReader(path)


def test_other_versions(small, tmp_path):
    path = tmp_path / "clip.p4d"
    with pytest.raises(ClipError, match=r"version 2 is newer .* Update Peel4D"):
        ClipReader(with_head(small, path, version=2))
    with pytest.raises(ClipError, match="version 0 is older"):
        ClipReader(with_head(small, path, version=0))
    with pytest.raises(ClipError, match="codec 'wavelet' is not known"):
        ClipReader(with_head(small, path, codec="wavelet"))
    with pytest.raises(ClipError, match="version 7 of the rendering rules"):
        ClipReader(with_head(small, path, render__footprint=7))


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("version", ["1", 1.0, True, None, -1]),
        ("frame_count", [0, -1, 3, 10**7, 10**30, 2.0, "2", None, True]),
        ("first_frame", ["a", 1e9, 10**20]),
        ("fps", [0, -25, "25", None, [25], 1e300, 10**400]),
        ("points", [[5], [5, -1], [5, 1e9], [5, 10**12], [5, (1 << 24) + 1], 5, [5, 4, 4]]),
        ("static_points", [-1, 10**10, "0", 3]),
        ("sh_degree", [-1, 4, 1.5, None]),
        ("bounds", [[], [[0, 0, 0]], [[0, 0, 0], [0, "1", 0]], [[1, 1, 1], [0, 0, 0]], None]),
        ("up", [[0, 0], [0, 0, 0], [0, 0, 2], "z"]),
        ("color", ["linear", 3]),
        ("render", [None, {}, []]),
        ("render__layers", [0, 1000, 1.5, "12"]),
        ("render__min_radius_px", [-1, "a"]),
        ("render__min_transmittance", [2, -1]),
        ("cameras", [None, {}, [3], [{}]]),
        ("cameras__0__K", [[[1]], [[1, 0, 0]] * 2, [[None] * 3] * 3]),
        ("cameras__0__width", [0, -5, 10**10, 64.5]),
        ("cameras__0__name", [3]),
        ("cameras__0__train", ["yes", 1]),
        ("attributes", ["x", [1], [{"name": "a"}]]),
        ("attributes__0__bytes", [-1, "x"]),
        ("provenance", [[], "x", None]),
    ],
)
def test_wrong_values_in_the_head(small, tmp_path, key, values):
    for value in values:
        with pytest.raises(ClipError, match=r"clip\.p4d, member") as caught:
            ClipReader(with_head(small, tmp_path / "clip.p4d", **{key: value}))
        assert caught.value.what and caught.value.hint


def test_frames_larger_than_two_gibibytes_are_refused(small, tmp_path):
    path = with_head(small, tmp_path / "clip.p4d", points=[1 << 24] * 2, sh_degree=3)
    with pytest.raises(ClipError, match="3556769792 bytes per frame"):
        ClipReader(path)


def test_a_missing_key_is_called_missing(small, tmp_path):
    head = json.loads(zipfile.ZipFile(small).read("clip.json"))
    del head["fps"]
    changes = {"clip.json": json.dumps(head).encode()}
    with pytest.raises(ClipError, match="'fps' is missing"):
        ClipReader(repacked(small, tmp_path / "clip.p4d", changes))


def test_missing_and_exchanged_frames(small, tmp_path):
    path = tmp_path / "clip.p4d"
    with pytest.raises(ClipError, match=r"frames/000001\.bin: the member is missing"):
        ClipReader(repacked(small, path, {"frames/000001.bin": None}))
    other = zipfile.ZipFile(small).read("frames/000000.bin")
    with ClipReader(repacked(small, path, {"frames/000001.bin": other})) as reader:
        with pytest.raises(ClipError, match="the 4 that"):
            reader.frame(1)
        reader.prefetch(1)  # the error waits for whoever asks
        with pytest.raises(ClipError):
            reader.frame(1)
        assert len(reader.frame(0)) == 5


def test_frame_indices(small):
    with ClipReader(small) as reader:
        for index in (-1, 2, 10**9):
            for method in (reader.frame, reader.frame_nbytes, reader.prefetch):
                with pytest.raises(ClipError, match="frames 0 to 1"):
                    method(index)
        assert len(reader.frame(np.int64(1))) == 4
    with pytest.raises(ClipError, match="closed"):
        reader.frame(0)


def test_unknown_parts_are_skipped(small, tmp_path):
    """A later version may add keys, members and attributes without breaking this one."""
    chunk = zipfile.ZipFile(small).read("frames/000000.bin")

    def add_velocity(header):
        block = {"name": "velocity", "scale": "wavelet", "bytes": 7, "planes": None}
        header["blocks"].insert(0, block)
        header["later"] = 1

    length = struct.unpack_from("<I", chunk, 4)[0]
    payload = chunk[: 8 + length] + b"unknown" + chunk[8 + length :]
    patched = with_header(payload, add_velocity)
    path = repacked(small, tmp_path / "a.p4d", {"frames/000000.bin": patched, "later.bin": b"x"})
    row = {"name": "velocity", "type": "float16", "components": 3, "scope": "fragment"}
    path = with_head(path, tmp_path / "b.p4d", attributes=[{**row, "range": [0, 1], "bytes": 7}])
    assert read_all(with_head(path, tmp_path / "c.p4d", later={"x": 1})) == read_all(small)


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h.update(points=10**9),
        lambda h: h.update(points=-1),
        lambda h: h.update(blocks=None),
        lambda h: h.update(compression="lzma"),
        lambda h: h["blocks"].pop(),
        lambda h: h["blocks"].pop(0),
        lambda h: h["blocks"].append(h["blocks"][0]),
        lambda h: h["blocks"].append({"name": "x", "bytes": 10**9}),
        lambda h: h["blocks"][0].update(planes=[1] * 9),
        lambda h: h["blocks"][0].update(planes=10**9),
        lambda h: h["blocks"][0].update(step=-1),
        lambda h: h["blocks"][0].update(step=1e300),
        lambda h: h["blocks"][0].update(low=[0, 0]),
        lambda h: h["blocks"][0].update(scale="linear"),
        lambda h: h["blocks"][1].update(low=0),
        lambda h: h["blocks"][1].update(low=2e9),
        lambda h: h["blocks"][1].update(levels=10**6),
        lambda h: h["blocks"][1].update(levels=-1),
        lambda h: h["blocks"][1].update(levels=0),
        lambda h: h["blocks"][1].update(delta=2),
        lambda h: h["blocks"][1].update(color=True),
        lambda h: h["blocks"][1].update(scale="cubic"),
        lambda h: h["blocks"][3].update(components=10**9),
        lambda h: h["blocks"][3].update(first=11),
        lambda h: h["blocks"][3].update(planes=[]),
        lambda h: h["blocks"][3].update(name=None),
        lambda h: h["blocks"].reverse(),
    ],
)
@pytest.mark.filterwarnings("error")
def test_hostile_chunk_headers(change):
    """The archive's checksums say nothing about who wrote it."""
    data = encode_chunk(cloud(50), Precision(), "test").data
    with pytest.raises(ClipError, match=r"a\.p4d, member f"):
        decode_chunk(with_header(data, change), 50, 1, "a.p4d, member f")


@settings(max_examples=400, deadline=None)
@given(data=st.data())
@pytest.mark.filterwarnings("error")
def test_chunks_with_flipped_bytes_never_crash(data):
    chunk = bytearray(encode_chunk(cloud(20), Precision(), "test").data)
    for _ in range(data.draw(st.integers(1, 4))):
        chunk[data.draw(st.integers(0, len(chunk) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        splats = decode_chunk(bytes(chunk), 20, 1, "test")
    except ClipError:
        return
    assert len(splats) == 20 and all(
        np.isfinite(a).all() for a in (splats.position, splats.radius, splats.density, splats.sh)
    )


def bomb(method: str, claimed: bool) -> bytes:
    """64 MiB of zeros, compressed; with or without the size in the zstd header."""
    raw = bytes(1 << 26)
    if method == "zlib":
        return zlib.compress(raw, 9)
    return zstandard.ZstdCompressor(write_content_size=claimed).compress(raw)


@pytest.mark.parametrize(("method", "claimed"), [("zstd", True), ("zstd", False), ("zlib", False)])
def test_compression_bombs_are_not_unpacked(method, claimed):
    data = bomb(method, claimed)
    decompressor = compression.Decompressor(method, "a.p4d, member f")
    tracemalloc.start()
    with pytest.raises(ClipError, match=r"a\.p4d, member f: cannot decompress"):
        decompressor.decompress(data, 100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_zstd_clips_need_the_module(small, monkeypatch):
    monkeypatch.setattr(compression, "zstandard", None)
    with ClipReader(small) as reader, pytest.raises(ClipError, match="pip install zstandard"):
        reader.frame(0)


@pytest.mark.parametrize("name", ["position", "radius", "density", "sh"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e35])
def test_bad_numbers_are_not_written(tmp_path, name, value):
    bad = cloud(9)
    getattr(bad, name)[4] = value
    with pytest.raises(ClipError, match=f"frame 1: {name} of point 4"):
        write_clip(tmp_path / "clip.p4d", [cloud(9), bad], fps=25)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frames": []}, "no frames"),
        ({"fps": 0}, "fps"),
        ({"fps": float("nan")}, "JSON"),
        ({"provenance": {"x": object()}}, "JSON"),
        ({"provenance": {"x": float("inf")}}, "JSON"),
        ({"up": [0, 0, 0]}, "'up' is not of unit length"),
        ({"provenance": {"x": "y" * (1 << 26)}}, "provenance"),
        ({"cameras": [ClipCamera("a", np.eye(3) * np.nan, np.eye(3), np.zeros(3), 4, 4)]}, "JSON"),
        ({"cameras": [ClipCamera("a", np.eye(3), np.eye(3), np.zeros(3), 0, 4)]}, "width"),
        ({"frames": [Splats([[0, 0, 0]], [1], [1.01], [[[0, 0, 0]]])]}, "density of point 0"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_heads_that_no_reader_takes_are_not_written(tmp_path, arguments, message):
    path = tmp_path / "clip.p4d"
    path.write_bytes(b"old")
    with pytest.raises(ClipError, match=message):
        write_clip(path, **{"frames": [cloud(3)], "fps": 25, **arguments})
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError("diverged"), OSError("image"), KeyboardInterrupt()])
def test_what_the_frames_raise_comes_through(tmp_path, error):
    def frames():
        yield cloud(5)
        raise error

    path = tmp_path / "clip.p4d"
    path.write_bytes(b"old")
    with pytest.raises(type(error)) as caught:
        write_clip(path, frames(), fps=25)
    assert caught.value is error
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_folders_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot write"):
        write_clip(tmp_path / "file" / "clip.p4d", [cloud(3)], fps=25)


_FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from peel4d.engine.clip.writer import write_clip
from peel4d.engine.errors import OutputError
from peel4d.engine.render.splats import Splats

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
rng = np.random.default_rng(0)
one = np.ones(3000)
frame = Splats(rng.normal(size=(3000, 3)), one, one, rng.normal(size=(3000, 1, 3)))
path = Path(sys.argv[1])
for limit in sys.argv[2:]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
    try:
        write_clip(path, [frame] * 4, fps=25)
        print(limit, "written")
    except OutputError as error:
        print(limit, error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    """The kernel lets the file grow no further, at its start, in a frame or in the last one."""
    path = tmp_path / "clip.p4d"
    write_clip(path, [cloud(3)], fps=25)
    before = path.read_bytes()
    limits = ["1", "20000", "60000"]
    command = [sys.executable, "-W", "error", "-c", _FULL_DISK, str(path), *limits]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0 and result.stderr == "", result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 3 and all("cannot write (File too large)" in line for line in lines)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
