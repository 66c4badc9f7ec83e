"""The command line: `peel4d reconstruct | evaluate | render | pack | info | video | benchmark`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from ..errors import PeelError
from .console import emit_error

#: What a shell reports for a program that Ctrl-C ended.
INTERRUPTED = 130
#: And for one whose reader went away.
BROKEN_PIPE = 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. An error is one line, never a traceback."""
    options = build_parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO if options.verbose else logging.WARNING,
        format="peel4d: %(message)s",
        stream=sys.stderr,
        force=True,
    )
    try:
        return options.run(options)
    except PeelError as error:
        if options.json:
            emit_error(error)
        print(f"peel4d: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        action = getattr(options, "action", options.command)
        hint = " --resume goes on from here." if action in ("reconstruct", "encode") else ""
        print(f"peel4d: interrupted.{hint}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (head, less) has seen enough.
        sys.stderr.close()
        return 0 if options.command == "info" else BROKEN_PIPE
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(f"peel4d: {place}{error.strerror or error}", file=sys.stderr)
        return PeelError.exit_code


def build_parser() -> argparse.ArgumentParser:
    from . import benchmark, evaluate, info, pack, reconstruct, render, video

    parser = argparse.ArgumentParser(
        prog="peel4d", description="Multi-view video becomes a 4D scene inside Blender."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (reconstruct, evaluate, render, pack, info, video, benchmark):
        command.add_parser(commands)
    for name, subparser in commands.choices.items():
        if name == "video":  # its actions have these
            continue
        subparser.add_argument("--json", action="store_true", help="machine-readable output")
        subparser.add_argument("-v", "--verbose", action="store_true", help="say more")
    return parser


if __name__ == "__main__":
    sys.exit(main())
