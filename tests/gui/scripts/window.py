"""What a script inside the windowed Blender needs: its screen, a mouse, keys, steps.

A scenario is a generator that yields seconds to wait; `run` steps it from Blender's own timers, so
that windows are drawn and events handled in between. An error ends Blender with exit code 1 and
leaves `failed.png` in the scenario's folder. Positions are (x, y) in pixels of the screen, y down,
except where a name says region: those are Blender's, y up.
"""

import importlib
import os
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Generator
from pathlib import Path

import bpy
import numpy as np

SCREEN = Path("/fb/Xvfb_screen0")
ARGUMENTS = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []
#: Folder of the scenario: what it is given and what it leaves.
OUT = Path(ARGUMENTS[0]) if ARGUMENTS else Path()
MODULE = "bl_ext.user_default.peel4d"
LEVEL = 1 / 255
Steps = Generator[float, None, None]


def package(name: str):
    """A module of the installed extension, such as "addon.render.session"."""
    return importlib.import_module(f"{MODULE}.{name}")


# The screen.


def screen() -> np.ndarray:
    """(H, W, 3) uint8, row 0 = top; Xvfb keeps its screen as an XWD file."""
    data = SCREEN.read_bytes()
    head = struct.unpack(">25I", data[:100])
    size, width, height, order, stride, colors = (head[i] for i in (0, 4, 5, 7, 12, 19))
    rows = np.frombuffer(data, np.uint8, height * stride, size + colors * 12)
    pixels = rows.reshape(height, stride)[:, : width * 4].reshape(height, width, 4)
    return (pixels[..., 2::-1] if order == 0 else pixels[..., 1:4]).copy()


def save(name: str, pixels: np.ndarray | None = None) -> np.ndarray:
    """Write OUT/`name`.png of (H, W, 3) uint8 pixels, by default the screen; they are returned."""
    pixels = screen() if pixels is None else pixels
    height, width = pixels.shape[:2]
    OUT.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["convert", "-size", f"{width}x{height}", "-depth", "8", "rgb:-", f"{OUT}/{name}.png"],
        input=np.ascontiguousarray(pixels).tobytes(),
        check=True,
    )
    return pixels


def area_of(kind: str = "VIEW_3D"):
    """(window, area, region): the largest editor of a kind and its main region."""
    found = [
        (window, area)
        for window in bpy.context.window_manager.windows
        for area in window.screen.areas
        if area.type == kind
    ]
    assert found, f"no {kind} is open"
    window, area = max(found, key=lambda pair: pair[1].width * pair[1].height)
    return window, area, region_of(area)


def region_of(area, kind: str = "WINDOW"):
    return next(region for region in area.regions if region.type == kind)


def shown(region, pixels: np.ndarray | None = None) -> np.ndarray:
    """The pixels of a region of the main window, row 0 = top."""
    pixels = screen() if pixels is None else pixels
    bottom = pixels.shape[0] - region.y
    return pixels[bottom - region.height : bottom, region.x : region.x + region.width]


def place(region, x: float, y: float) -> tuple[int, int]:
    """Region coordinates (y up) to those of the screen."""
    return round(region.x + x), round(screen().shape[0] - 1 - (region.y + y))


# Mouse and keys: real events of the X server.


def xdotool(*arguments) -> str:
    return subprocess.run(
        ["xdotool", *(str(a) for a in arguments)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=20,
    ).stdout


def move(x: float, y: float) -> Steps:
    # Two moves: Blender activates a button on the second event inside of it.
    xdotool("mousemove", round(x) + 1, round(y))
    yield 0.02
    xdotool("mousemove", round(x), round(y))
    yield 0.05


def click(x: float, y: float, button: int = 1) -> Steps:
    yield from move(x, y)
    xdotool("mousedown", button)
    yield 0.06
    xdotool("mouseup", button)
    yield 0.15


def drag(start: tuple[float, float], end: tuple[float, float], steps: int = 12) -> Steps:
    yield from move(*start)
    xdotool("mousedown", 1)
    yield 0.1
    for index in range(1, steps + 1):
        share = index / steps
        xdotool(
            "mousemove",
            round(start[0] + share * (end[0] - start[0])),
            round(start[1] + share * (end[1] - start[1])),
        )
        yield 0.05
    xdotool("mouseup", 1)
    yield 0.2


def key(name: str) -> Steps:
    """Press a key in the editor under the mouse: "F12", "ctrl+z", "Escape"."""
    xdotool("key", name)
    yield 0.2


# The sidebar.


def open_sidebar(category: str = "Peel4D", width: int | None = None) -> Steps:
    """Show the 3D viewport's sidebar with its tab `category`."""
    _, area, _ = area_of()
    area.spaces.active.show_region_ui = True
    yield 0.3
    region_of(area, "UI").active_panel_category = category
    area.tag_redraw()
    yield 0.4


def button_under_mouse(window, area, region) -> str:
    """The Python command of the operator button under the mouse, as Ctrl-C on it copies it."""
    manager = bpy.context.window_manager
    manager.clipboard = ""
    with bpy.context.temp_override(window=window, area=area, region=region):
        if bpy.ops.ui.copy_python_command_button.poll():
            bpy.ops.ui.copy_python_command_button()
    return manager.clipboard


def find_button(
    command: str, kind: str = "VIEW_3D", region_kind: str = "UI", at: float = 0.5, step: int = 9
) -> Generator[float, None, tuple[int, int]]:
    """Run the mouse down a panel until a button of that operator is under it, and return the place.

    command: beginning of the operator's name, such as "bpy.ops.peel4d.reconstruct". at: where
    across the region to look, 0..1.
    """
    window, area, _ = area_of(kind)
    region = region_of(area, region_kind)
    seen = set()
    for y in range(region.height - 6, 0, -step):
        x, from_top = place(region, at * region.width, y)
        yield from move(x, from_top)
        found = button_under_mouse(window, area, region)
        seen.add(found)
        if found.startswith(command):
            return x, from_top
    save("no_button")
    raise AssertionError(f"no button {command} in the panel; there were {sorted(seen)}")


def press(command: str, **options) -> Steps:
    """Press the button of an operator in the sidebar by mouse."""
    x, y = yield from find_button(command, **options)
    yield from click(x, y)


# Waiting.


def until(condition: Callable[[], bool], what: str, limit: float = 30.0) -> Steps:
    """Wait until a condition holds; AssertionError naming `what` after `limit` seconds."""
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"after {limit:g} s still not: {what}")
        yield 0.05


def viewports() -> list:
    """Our viewports that have drawn something."""
    return [v for v in package("addon.render.session").SESSION.viewports if v.finished is not None]


def until_drawn(limit: float = 30.0) -> Steps:
    """Wait until every viewport in Rendered mode shows its newest view in full."""
    yield 0.15
    yield from until(
        lambda: bool(viewports()) and all(v.is_complete for v in viewports()),
        "the viewport shows its newest view in full",
        limit,
    )
    yield 0.4


# Steps.


def run(steps: Steps) -> None:
    """Step a scenario to its end, then quit Blender: exit code 0, or 1 with a traceback."""

    def step():
        try:
            return next(steps)
        except StopIteration:
            bpy.ops.wm.quit_blender()
        except BaseException:
            traceback.print_exc()
            try:
                save("failed")
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(1)
        return None

    bpy.context.preferences.view.show_splash = False
    bpy.context.preferences.view.show_tooltips = False
    # Persistent: a scenario may load files.
    bpy.app.timers.register(step, first_interval=1.0, persistent=True)
