"""What a running Blender holds: memory, threads, files, and everything an add-on can register."""

import ctypes
import gc
import tempfile
from dataclasses import dataclass
from pathlib import Path

import bpy


@dataclass(frozen=True)
class Held:
    """rss, private: bytes of memory. threads, files: how many are there now."""

    rss: int
    private: int
    threads: int
    files: int

    @classmethod
    def now(cls) -> "Held":
        """What the process holds when Python and the C library have given back what is free."""
        gc.collect()
        # Free blocks between used ones are no leak; glibc keeps them unless it is asked.
        ctypes.CDLL(None).malloc_trim(0)
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
        sizes = {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines}
        return cls(
            rss=sizes["Rss"],
            private=sizes["Private_Clean"] + sizes["Private_Dirty"],
            threads=len(list(Path("/proc/self/task").iterdir())),
            files=len(list(Path("/proc/self/fd").iterdir())),
        )

    def as_dict(self) -> dict[str, int]:
        return dict(vars(self))


def registered() -> dict[str, set[str]]:
    """Everything that add-ons add to Blender, by kind."""
    handlers = {
        f"{name}:{getattr(one, '__module__', '?')}.{getattr(one, '__qualname__', one)}"
        for name in dir(bpy.app.handlers)
        if isinstance(functions := getattr(bpy.app.handlers, name), list)
        for one in functions
    }
    # Also those that Blender lists nowhere: a panel's or a property group's Python class.
    classes = set(dir(bpy.types))
    properties = {
        f"{name}.{key}"
        for name in ("Scene", "Object", "Camera", "WindowManager", "Preferences", "Collection")
        for key in getattr(bpy.types, name).bl_rna.properties.keys()  # noqa: SIM118 (no dict)
    }
    menus = {
        f"{name}:{one.__module__}.{one.__qualname__}"
        for name in classes
        if hasattr(draw := getattr(getattr(bpy.types, name), "draw", None), "_draw_funcs")
        for one in draw._draw_funcs
        # Blender's own, which becomes the first of a list when anything is added.
        if one.__qualname__ != f"{name}.draw"
    }
    engines = {
        f"{panel.__name__}:{engine}"
        for panel in bpy.types.Panel.__subclasses__()
        if getattr(panel, "is_registered", False)
        for engine in getattr(panel, "COMPAT_ENGINES", ())
    }
    manager = bpy.context.window_manager
    keymaps = {
        f"{config.name}:{keymap.name}:{item.idname}"
        for config in manager.keyconfigs
        if config.name.endswith("addon")
        for keymap in config.keymaps
        for item in keymap.keymap_items
    }
    operators = {
        f"{group}.{name}" for group in dir(bpy.ops) for name in dir(getattr(bpy.ops, group))
    }
    return {
        "handlers": handlers,
        "classes": classes,
        "properties": properties,
        "menus": menus,
        "engines": engines,
        "keymaps": keymaps,
        "operators": operators,
    }


def residue(before: dict[str, set[str]]) -> dict[str, list[str]]:
    """What is registered now and was not, or the other way round; {} without any."""
    now = registered()
    return {kind: sorted(before[kind] ^ now[kind]) for kind in before if before[kind] != now[kind]}


def files_of_ours() -> set[str]:
    """Files of Peel4D in the folder for temporary ones, which should be this process's own."""
    folder = Path(tempfile.gettempdir())
    return {str(path) for path in folder.rglob("*peel4d*") if path.is_file()}


def threads_of_ours() -> set[str]:
    """Names of the Python threads that Peel4D has started and that still run."""
    import threading

    return {one.name for one in threading.enumerate() if one.name.startswith("peel4d")}
