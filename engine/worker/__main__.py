"""`python -m peel4d.engine.worker reconstruct|resume|pack|check`: docs/json.md has what it says."""

from __future__ import annotations

import argparse
import faulthandler
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path

from ..cli.console import emit, emit_error, progress_reporter
from ..cli.reconstruct import (
    JsonWarnings,
    add_arguments,
    add_machine,
    add_resources,
    add_vram,
    emit_started,
    plan_of,
)
from ..errors import PeelError, ReconstructionError
from .faults import explain
from .lifeline import die_with, listen
from .pack import add_arguments as add_pack_arguments
from .pack import run as run_pack
from .run import Resources, explained, plan_to_resume, run_plan

INTERNAL = 1
CANCELLED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    options = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    faulthandler.enable()
    _keep_stdout_clean()
    if options.command != "create":  # it has to end its children first, see there
        die_with(options.parent)
    try:
        return options.run(options)
    except Exception as error:
        known = explain(error, getattr(options, "output", None))
        if isinstance(error, ModuleNotFoundError):
            known = ReconstructionError(
                f"training needs {error.name}, which {sys.executable} lacks",
                hint="In the preferences of Peel4D set an interpreter that has it, or none and "
                "press Create Environment",
            )
        traceback.print_exc()  # stderr is the log file
        if known is None:
            known = PeelError(
                f"{type(error).__name__}: {error}", hint="This is a bug; the log file says where"
            )
            known.code, known.exit_code = "internal", INTERNAL
        emit_error(known)
        return known.exit_code


def _check(options: argparse.Namespace) -> int:
    from .environment import describe

    emit("environment", **describe())
    return 0


def _create(options: argparse.Namespace) -> int:
    from .create import create

    # For _abandon, which sends it to the whole group; programs that we start do not inherit it.
    signal.signal(signal.SIGTERM, lambda *_: None)
    abandoned = threading.Event()
    listen(lambda: _abandon(options.folder, abandoned))
    try:
        described = create(
            options.folder,
            options.lock,
            lambda stage, step, total: emit(
                "progress", stage=stage, step=step, total=total, eta=None
            ),
        )
    except PeelError:
        if abandoned.is_set():  # that is why pip has failed, and the process is about to end
            threading.Event().wait()
        raise
    emit("environment", **described)
    return 0


def _abandon(folder: Path, abandoned: threading.Event) -> None:
    """Cancelled, or Blender has gone: pip and what it starts end, where we lead a group of our own,
    and what they have made goes."""
    from .create import remove_unfinished

    abandoned.set()
    if os.name == "posix" and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGTERM)
    remove_unfinished(folder)
    os._exit(CANCELLED)


def _reconstruct(options: argparse.Namespace) -> int:
    logging.getLogger().addHandler(JsonWarnings(logging.WARNING))
    # Heartbeats first: importing torch alone takes seconds.
    from .supervision import Supervision

    supervision = Supervision(
        emit,
        preview_path=options.output / "preview.p4d" if options.preview else None,
        memory_limit=options.max_memory,
        preview_seconds=options.preview or 0.0,
    )
    listen(supervision.cancel)
    signal.signal(signal.SIGTERM, lambda *_: supervision.cancel())
    supervision.start_heartbeat()

    from ..train.watch import Cancelled

    try:
        resume = options.command == "resume"
        plan = plan_to_resume(options.output) if resume else plan_of(options)
        emit_started(plan)
        with progress_reporter(json_lines=True) as progress:
            result = run_plan(
                plan,
                options.output,
                resume=resume or options.resume,
                resources=Resources.of(options),
                progress=progress,
                watch=supervision,
            )
    except Cancelled as error:
        emit("cancelled", output=str(options.output), message=str(error))
        return CANCELLED
    emit("done", **result)
    return 0


def _frames(options: argparse.Namespace) -> int:
    """Frames for a `FramePool`, which also hears of Ctrl-C and says what it means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger().handlers[:] = [JsonWarnings(logging.WARNING)]
    from ..train.plan import Folder
    from ..train.watch import Cancelled
    from .frame_process import Orders, preview_path, serve

    folder = Folder(options.output)
    orders = Orders(emit, preview_path(folder))
    listen(orders.cancel, orders.hear)
    try:
        with explained(options.output):
            serve(
                folder,
                orders,
                emit,
                max_memory=options.max_memory,
                max_vram=options.max_vram,
                device=options.device,
            )
    except Cancelled:
        return CANCELLED
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="peel4d.engine.worker", description="Reconstructs for Blender: JSON lines on stdout."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    reconstruct = commands.add_parser("reconstruct", help="as `peel4d reconstruct`")
    add_arguments(reconstruct)
    resume = commands.add_parser("resume", help="go on with a folder as it was started")
    resume.add_argument("output", type=Path, metavar="DIR")
    frames = commands.add_parser("frames", help="train single frames for another worker")
    frames.add_argument("output", type=Path, metavar="DIR")
    frames.set_defaults(run=_frames)
    pack = commands.add_parser("pack", help="pack a clip and fit its points to the footage")
    add_pack_arguments(pack)
    pack.set_defaults(run=run_pack)
    add_resources(resume)
    add_machine(frames)
    add_vram(frames)
    check = commands.add_parser("check", help="say what this interpreter has")
    check.set_defaults(run=_check)
    create = commands.add_parser("create", help="make a virtual environment with what is needed")
    create.add_argument("folder", type=Path, metavar="DIR")
    create.add_argument("lock", type=Path, help="requirements with exact versions")
    create.set_defaults(run=_create)
    for command in (reconstruct, resume):
        command.set_defaults(run=_reconstruct)
        command.add_argument(
            "--preview", type=float, metavar="S", help="write DIR/preview.p4d every S seconds"
        )
    for command in (reconstruct, resume, frames, pack, check, create):
        command.add_argument(
            "--parent", type=int, metavar="PID", help="end when this process has gone"
        )
    return parser


def _keep_stdout_clean() -> None:
    """Keep stdout for events: what libraries print by themselves goes to the log."""
    try:
        events = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
        os.dup2(2, 1)
    except OSError:
        return  # no stderr: leave things as they are
    sys.stdout = events


if __name__ == "__main__":
    sys.exit(main())
