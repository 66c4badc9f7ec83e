"""`peel4d render CLIP ... -o out.png|out.mp4`."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from ..errors import OutputError, PeelError
from ..render.backend import Instance, render_scene
from ..render.settings import DEFAULT_SAMPLES
from .arguments import add_backend, parse_memory, parse_size, positive_float, positive_int
from .console import progress_reporter


def add_parser(commands) -> None:
    parser = commands.add_parser(
        "render",
        help="render clips to a picture or a movie",
        description="Render clips without Blender; several clips are peeled together.",
    )
    parser.add_argument("clips", type=Path, nargs="+", metavar="CLIP")
    parser.add_argument("-o", "--output", type=Path, required=True, help="out.png or out.mp4")
    camera = parser.add_mutually_exclusive_group()
    camera.add_argument("--view", metavar="NAME", help="a camera of the first clip")
    camera.add_argument("--orbit", action="store_true", help="circle the clip (default for .mp4)")
    parser.add_argument("--frame", type=int, help="frame number; default the first (.mp4: all)")
    parser.add_argument("--count", type=positive_int, help="pictures of a movie; default: frames")
    parser.add_argument("--size", type=parse_size, metavar="WxH")
    parser.add_argument("--fps", type=positive_float, help="of the movie; default the clip's")
    parser.add_argument(
        "--background",
        type=_parse_color,
        metavar="R,G,B",
        help="0..1; default: transparent PNG, black movie",
    )
    parser.add_argument(
        "--no-background", action="store_true", help="leave out what does not move: subjects only"
    )
    parser.add_argument(
        "--crop",
        type=int,
        nargs=4,
        metavar=("X", "Y", "WIDTH", "HEIGHT"),
        help="only this window of the picture, pixels from the top left",
    )
    parser.add_argument(
        "--samples",
        type=int,
        choices=(1, 2, 4),
        default=DEFAULT_SAMPLES,
        help="per pixel along each axis; 1 is faster and leaves the rims of the points jagged "
        "(default %(default)s)",
    )
    add_backend(parser)
    parser.add_argument(
        "--max-vram", type=parse_memory, metavar="4G", help="of the GPU; default what there is"
    )
    parser.set_defaults(run=run)


def _parse_color(text: str) -> np.ndarray:
    try:
        color = np.array([float(part) for part in text.split(",")], dtype=np.float32)
    except ValueError:
        color = np.zeros(0)
    if color.shape != (3,) or not np.all((color >= 0) & (color <= 1)):
        raise argparse.ArgumentTypeError(f"'{text}' is not a colour; write 0.2,0.2,0.2")
    return color


def run(options: argparse.Namespace) -> int:
    from ..clip.reader import ClipReader
    from ..render.files import save_png, save_video, straight_alpha

    if options.max_vram is not None:
        os.environ["PEEL4D_MAX_VRAM"] = str(options.max_vram)  # read when the GPU is opened
    suffix = options.output.suffix.lower()
    if suffix not in (".png", ".mp4"):
        raise OutputError(
            f"cannot write '{suffix or 'a name without a suffix'}'",
            where=options.output,
            hint="Use .png or .mp4",
        )
    with ExitStack() as stack:
        clips = [stack.enter_context(ClipReader(path)) for path in options.clips]
        info = clips[0].info
        length = max(clip.info.frame_count for clip in clips)
        movie = suffix == ".mp4"
        count = (options.count or max(length, 1)) if movie else 1
        cameras = _cameras(
            options, clips[0], count, orbit=options.orbit or (movie and not options.view)
        )
        if options.crop:
            cameras = [_cropped(camera, options.crop) for camera in cameras]
        if movie and min(cameras[0].width, cameras[0].height) < 2:
            raise OutputError(
                "a movie is at least 2x2 pixels", where=options.output, hint="Use a larger --size"
            )
        frames = _frame_indices(options, info, count, movie)
        static = not options.no_background

        def pictures() -> Iterator[np.ndarray]:
            picture = None  # one image serves all frames
            with progress_reporter(json_lines=False) as progress:
                from ..progress import Progress

                for step, (index, camera) in enumerate(zip(frames, cameras, strict=True)):
                    instances = [
                        Instance(part, np.eye(4), id=number)
                        for number, clip in enumerate(clips)
                        for part in clip.packed(index % clip.info.frame_count, static=static)
                    ]
                    if step + 1 < len(frames):  # decoded while this one is drawn
                        for clip in clips:
                            clip.prefetch(frames[step + 1] % clip.info.frame_count, static=static)
                    picture = render_scene(
                        instances,
                        camera,
                        info.settings,
                        samples=options.samples,
                        backend=options.backend,
                        out=picture,
                    )
                    rgba = picture.rgba
                    if options.background is not None:
                        rgb = rgba[..., :3] + (1 - rgba[..., 3:]) * options.background
                        yield rgb
                    else:
                        yield rgba[..., :3] if movie else straight_alpha(rgba)
                    progress(Progress("render", step + 1, count))

        if movie:
            save_video(options.output, pictures(), options.fps or info.fps)
        else:
            save_png(options.output, next(iter(pictures())))
    size = [cameras[0].width, cameras[0].height]
    if options.json:
        print(json.dumps({"output": str(options.output), "pictures": count, "size": size}))
    else:
        print(f"{options.output}: {count} picture(s) of {size[0]} x {size[1]}")
    return 0


def _cameras(options: argparse.Namespace, clip, count: int, *, orbit: bool) -> list:
    from ..render.orbit import mean_up
    from ..render.orbit import orbit as orbit_cameras

    info = clip.info
    if not info.cameras:
        raise PeelError(
            "the clip names no cameras",
            where=options.clips[0],
            hint="It comes from a moving camera; render it in Blender with a camera of your own",
        )
    if orbit:
        rig = [camera.camera() for camera in info.cameras]
        up = mean_up(rig) if info.up is None else np.asarray(info.up, dtype=np.float64)
        return orbit_cameras(rig, info.frame_bounds, up, count, size=options.size)
    names = [camera.name for camera in info.cameras]
    name = options.view or names[0]
    if name not in names:
        raise PeelError(
            f"no camera called '{name}'",
            where=options.clips[0],
            hint=f"The cameras are: {', '.join(names)}",
        )
    camera = info.cameras[names.index(name)].camera()
    if options.size:
        camera = camera.scaled(*options.size)
    return [camera] * count


def _cropped(camera, window: list[int]):
    x, y, width, height = window
    if not (0 <= x < x + width <= camera.width and 0 <= y < y + height <= camera.height):
        raise PeelError(
            f"the window {x}, {y}, {width} x {height} is not inside the picture",
            hint=f"The picture has {camera.width} x {camera.height} pixels",
        )
    return camera.crop(x, y, width, height)


def _frame_indices(options: argparse.Namespace, info, count: int, movie: bool) -> list[int]:
    if options.frame is not None:
        index = options.frame - info.first_frame
        if not 0 <= index < info.frame_count:
            raise PeelError(
                f"no frame {options.frame}",
                where=options.clips[0],
                hint=f"It has frames {info.first_frame} to "
                f"{info.first_frame + info.frame_count - 1}",
            )
        return [index] * count
    return [step % info.frame_count for step in range(count)] if movie else [0]
