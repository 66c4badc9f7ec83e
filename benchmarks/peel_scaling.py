# SPDX-License-Identifier: GPL-3.0-or-later
"""How the core's time grows with points and with pixels, and falls with a second thread."""

from __future__ import annotations

import scenes
from measure import interleaved_ms, slope, summary
from peel_methods import Stage, cpu_case

from peel4d.engine.machine import cores

_POINT_BITS = range(14, 21)
_SIZE = scenes.RESOLUTIONS["1080p"]
_POINTS_OVER_PIXELS = 1 << 18
#: Sides of the pictures, in quarters of 1080p.
_QUARTERS = (1, 2, 3, 4, 6, 8)
_CASE = ("scene", "over", "points", "pixels")


def measure(names: list[str], most_points: int, runs: int) -> dict[str, list[dict]]:
    """The rows, the slopes along both axes and the speed-up by a second thread."""
    rows: list[dict] = []
    for name in names:
        counts = [1 << bits for bits in _POINT_BITS if 1 << bits <= most_points]
        clouds = [scenes.scene(name, count) for count in counts or [most_points]]
        rows += _rows("points", [(cloud, *_SIZE) for cloud in clouds], runs)
        cloud = [it for it in clouds if len(it.splats) <= _POINTS_OVER_PIXELS or it is clouds[0]][
            -1
        ]
        sizes = [(_SIZE[0] * k // 4, _SIZE[1] * k // 4) for k in _QUARTERS]
        rows += _rows("pixels", [(cloud, *size) for size in sizes], runs)
    return {"rows": rows, "slopes": _slopes(rows), "two_threads": _two_threads(rows)}


def print_tables(result: dict[str, list[dict]]) -> None:
    print(f"{'scene':6} {'points':>9} {'pixels':>9} {'threads':>7} {'median':>9}   ms")
    for row in result["rows"]:
        print(
            f"{row['scene']:6} {row['points']:9,} {row['pixels']:9,} {row['threads']:7} "
            f"{row['median_ms']:9.2f}"
        )
    for it in result["slopes"]:
        print(
            f"{it['scene']}, {it['threads']} thread(s): slope over {it['over']} "
            f"{it['slope']:.2f}, steepest step {it['steepest_step']:.2f}"
        )
    for it in result["two_threads"]:
        print(
            f"{it['scene']}, {it['points']:,} points, {it['pixels']:,} pixels: two threads are "
            f"{it['speedup']:.2f} x as fast as one"
        )


def _rows(over: str, clouds: list[tuple[scenes.Scene, int, int]], runs: int) -> list[dict]:
    """One row for every (scene, width, height) and number of threads."""
    draws, rows = {}, []
    for scene, width, height in clouds:
        stage = Stage(scene, f"{width}x{height}", scene.camera(width, height))
        for threads in (1, 2) if cores() > 1 else (1,):
            row = {
                "scene": scene.name,
                "over": over,
                "resolution": stage.resolution,
                "points": len(scene.splats),
                "pixels": width * height,
                "method": "cpu",
                "threads": threads,
            }
            draws[str(len(rows))] = cpu_case(stage, scene.splats, threads).draw
            rows.append(row)
    times = interleaved_ms(draws, runs)
    return [{**row, **summary(times[str(index)])} for index, row in enumerate(rows)]


def _slopes(rows: list[dict]) -> list[dict]:
    """Of every line of rows that differ in points or in pixels alone."""
    lines: dict[tuple, list[dict]] = {}
    for row in rows:
        lines.setdefault((row["scene"], row["over"], row["threads"]), []).append(row)
    found = []
    for (name, over, threads), line in lines.items():
        sizes, times = [row[over] for row in line], [row["median_ms"] for row in line]
        if len(line) > 1:
            steps = [slope(sizes[i : i + 2], times[i : i + 2]) for i in range(len(line) - 1)]
            found.append(
                {
                    "scene": name,
                    "over": over,
                    "threads": threads,
                    "slope": round(slope(sizes, times), 3),
                    "steepest_step": round(max(steps), 3),
                }
            )
    return found


def _two_threads(rows: list[dict]) -> list[dict]:
    """How many times faster two threads are than one, for every picture."""
    times: dict[tuple, dict[int, float]] = {}
    for row in rows:
        times.setdefault(tuple(row[key] for key in _CASE), {})[row["threads"]] = row["median_ms"]
    return [
        {**dict(zip(_CASE, case, strict=True)), "speedup": round(taken[1] / taken[2], 3)}
        for case, taken in times.items()
        if 2 in taken
    ]
