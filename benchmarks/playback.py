# SPDX-License-Identifier: GPL-3.0-or-later
"""A clip on disk becomes pixels: decode, upload, render, and all of it with prefetch, per frame.

    python benchmarks/playback.py [--clip FILE] [--resolution 720p|1080p|4k] [--json FILE]

Without --clip, the body scene is written as a clip in which it sways. "decode", "upload" (GPU only)
and "render" are measured one after the other; "end-to-end" is the time from one finished picture to
the next while the following frame is decoded (and uploaded) beside the rendering. The file is in
the system's cache, as it is when a clip is scrubbed. A back end that cannot run here has "skipped".
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scenes
from measure import milliseconds, percentiles, reason, write_result

from peel4d.engine.clip.clip import ClipCamera
from peel4d.engine.clip.reader import ClipReader
from peel4d.engine.clip.writer import write_clip
from peel4d.engine.errors import PeelError
from peel4d.engine.machine import cores
from peel4d.engine.render import backend
from peel4d.engine.render.camera import Camera
from peel4d.engine.render.settings import Rendered
from peel4d.engine.render.splats import PackedSplats, Splats

Parts = tuple[PackedSplats, ...]
STAGES = ("decode", "upload", "render", "end-to-end")


@dataclass(frozen=True, eq=False)
class Player:
    """A back end, and the picture that it draws into.

    begin_upload: queues points for the device. finish_upload: waits until they are there.
    """

    name: str
    out: Rendered
    begin_upload: Callable[[PackedSplats], None] | None = None
    finish_upload: Callable[[], None] | None = None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clip", type=Path, help="a .p4d; default: one made here")
    parser.add_argument("--resolution", choices=tuple(scenes.RESOLUTIONS), default="1080p")
    parser.add_argument("--frames", type=int, default=24, help="of the clip made here")
    parser.add_argument("--points", type=int, default=scenes.BODY_POINTS, help="likewise")
    parser.add_argument("--runs", type=int, default=120, help="frames measured, default 120")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.clip
        if path is None:
            path = Path(folder) / "body.p4d"
            write_body(
                path, options.points, options.frames, *scenes.RESOLUTIONS[options.resolution]
            )
        rows, clip = play(path, options.resolution, options.runs)
    print(
        f"{clip['frames']} frames of {clip['points']:,} points and {clip['bytes'] / 1e6:.2f} MB, "
        f"{options.resolution}"
    )
    print(f"{'':18} {'p50':>9} {'p95':>9} {'p99':>9}   ms")
    for row in rows:
        if "skipped" in row:
            print(f"{row['method']:18} skipped: {row['skipped']}")
        else:
            print(
                f"{row['method'] + ' ' + row['stage']:18} "
                f"{row['p50_ms']:9.2f} {row['p95_ms']:9.2f} {row['p99_ms']:9.2f}"
            )
    write_result(options.json, rows, clip=clip)
    return 0


def write_body(path: Path, points: int, frames: int, width: int, height: int) -> None:
    """The body scene swaying from side to side, one turn of it per clip."""
    scene = scenes.body(points)
    camera = scene.camera(width, height)

    def moving() -> Iterator[Splats]:
        still = scene.splats
        for index in range(frames):
            position = still.position.copy()
            turn = 2 * np.pi * index / frames
            position[:, 0] += 0.1 * position[:, 2] * np.sin(turn + position[:, 2])
            yield Splats(position, still.radius, still.density, still.sh)

    pose = (camera.K, camera.R, camera.t, width, height)
    write_clip(path, moving(), fps=24, cameras=[ClipCamera("front", *pose, train=True)])


def play(path: Path, resolution: str, runs: int) -> tuple[list[dict], dict[str, object]]:
    """Rows of all back ends, and what the clip is like."""
    rows: list[dict] = []
    with ClipReader(path, cache_frames=3) as reader:
        info = reader.info
        camera = clip_camera(info, *scenes.RESOLUTIONS[resolution])
        place = {"resolution": resolution, "frames": runs}
        for name, make in (("cpu", cpu_player), ("cuda", cuda_player)):
            try:
                player = make(camera)
            except (PeelError, ImportError) as error:
                rows.append({**place, "method": name, "skipped": reason(error)})
                continue
            threads = {"threads": cores()} if name == "cpu" else {}
            for stage, times in measure(reader, player, camera, runs).items():
                rows.append(
                    {**place, "method": name, "stage": stage, **threads, **percentiles(times)}
                )
        clip = {
            "file": path.name,
            "codec": info.codec,
            "frames": info.frame_count,
            "points": int(np.mean(info.points)) + info.static_points,
            "sh_degree": info.sh_degree,
            "bytes": int(np.mean([reader.frame_nbytes(i) for i in range(info.frame_count)])),
        }
    return rows, clip


def measure(
    reader: ClipReader, player: Player, camera: Camera, runs: int
) -> dict[str, list[float]]:
    """Milliseconds of every frame by stage."""
    settings, count = reader.info.settings, reader.info.frame_count
    uploads = player.begin_upload is not None
    times: dict[str, list[float]] = {stage: [] for stage in STAGES if stage != "upload" or uploads}

    def begin_upload(parts: Parts) -> None:
        for part in parts:
            player.begin_upload(part)

    def upload(parts: Parts) -> None:
        begin_upload(parts)
        player.finish_upload()

    def render(parts: Parts) -> None:
        instances = [backend.Instance(part, np.eye(4)) for part in parts]
        backend.render_scene(instances, camera, settings, backend=player.name, out=player.out)

    render(reader.packed(0))
    with ClipReader(reader.path, cache_frames=0) as uncached:
        for run in range(runs):
            begun = time.perf_counter()
            parts = uncached.packed(run % count)
            times["decode"].append(1e3 * (time.perf_counter() - begun))
            if uploads:
                times["upload"].append(milliseconds(functools.partial(upload, parts)))
            times["render"].append(milliseconds(functools.partial(render, parts)))

    following = reader.packed(0)
    reader.prefetch(1 % count)
    begun = time.perf_counter()
    for run in range(runs):
        parts = following
        reader.prefetch((run + 2) % count)
        if uploads:  # the next frame is on its way to the device while this one is drawn
            following = reader.packed((run + 1) % count)
            begin_upload(following)
            render(parts)
        else:
            render(parts)
            following = reader.packed((run + 1) % count)
        now = time.perf_counter()
        times["end-to-end"].append(1e3 * (now - begun))
        begun = now
    return times


def clip_camera(info, width: int, height: int) -> Camera:
    """The clip's first camera at another size; without cameras, one that sees all of it."""
    if info.cameras:
        first = info.cameras[0]
        camera = Camera(first.K, first.R, first.t, first.width, first.height)
        return camera.scaled(width, height)
    low, high = np.asarray(info.bounds)
    centre, extent = (low + high) / 2, float(np.linalg.norm(high - low))
    focal = 1.2 * height
    R = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return Camera(K, R, -R @ (centre - [0, 1.2 * extent, 0]), width, height)


def cpu_player(camera: Camera) -> Player:
    shape = (camera.height, camera.width)
    out = Rendered(np.zeros((*shape, 4), np.float32), np.zeros(shape, np.float32))
    return Player("cpu", out)


def cuda_player(camera: Camera) -> Player:
    name = backend.select("cuda")
    from peel4d.engine.render.cuda import renderer

    gpu = renderer()

    def wait() -> None:
        with gpu.device.active():
            gpu.device.synchronize()

    return Player(name, gpu.picture(camera.width, camera.height), gpu.prefetch, wait)


if __name__ == "__main__":
    sys.exit(main())
