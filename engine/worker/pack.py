"""The worker's command `pack`: a clip whose points are fitted to its footage."""

from __future__ import annotations

import argparse
import logging
import signal
from dataclasses import asdict
from pathlib import Path

from ..cli.arguments import positive_float, positive_int
from ..cli.console import emit, progress_reporter
from ..cli.reconstruct import JsonWarnings, add_machine
from .lifeline import listen


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="DIR", help="folder of a reconstruction")
    parser.add_argument("output", type=Path, metavar="OUT.p4d")
    parser.add_argument("--capture", type=Path, help="where its footage is, if it has moved")
    parser.add_argument("--coarseness", type=positive_float)
    parser.add_argument("--prune", type=float)
    parser.add_argument("--target-bytes", type=positive_int)
    parser.add_argument("--target-psnr", type=positive_float)
    add_machine(parser)


def run(options: argparse.Namespace) -> int:
    """Says `started`, `progress` and `done` (bytes, source_bytes, pruned, coarseness)."""
    logging.getLogger().addHandler(JsonWarnings(logging.WARNING))
    # Heartbeats first: importing torch alone takes seconds. And `check` needs this module where
    # not even numpy is installed.
    from .supervision import Supervision

    supervision = Supervision(emit, memory_limit=options.max_memory)
    listen(supervision.cancel)
    signal.signal(signal.SIGTERM, lambda *_: supervision.cancel())
    supervision.start_heartbeat()

    from ..clip.pack import PackSettings, pack
    from ..train.refit import Refit
    from ..train.run import checked
    from ..train.watch import Cancelled

    settings = PackSettings(
        coarseness=options.coarseness,
        prune=PackSettings.prune if options.prune is None else options.prune,
        target_bytes=options.target_bytes,
        target_psnr=options.target_psnr,
    )
    try:
        emit("started", source=str(options.source), **asdict(settings))
        with progress_reporter(json_lines=True) as progress:
            progress = checked(progress, supervision)
            fitter = Refit(
                options.source,
                options.capture,
                max_memory=options.max_memory,
                device=options.device,
                progress=progress,
                watch=supervision,
            )
            packed = pack(
                options.source, options.output, settings, fitter=fitter, progress=progress
            )
    except Cancelled as error:
        emit("cancelled", output=str(options.output), message=str(error))
        return 130
    emit(
        "done",
        clip=str(options.output),
        bytes=packed.nbytes,
        source_bytes=packed.source_nbytes,
        pruned=packed.pruned,
        coarseness=packed.coarseness,
    )
    return 0
