"""What the command line shows: progress bars on a terminal, JSON lines for programs."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections.abc import Iterator

from ..errors import PeelError
from ..progress import Progress, ProgressCallback

_lock = threading.Lock()


def emit(event: str, **values: object) -> None:
    """One JSON object on one line of stdout (the worker protocol), from any thread."""
    line = json.dumps({"event": event, **values}, allow_nan=False) + "\n"
    with _lock:
        sys.stdout.write(line)
        sys.stdout.flush()


def emit_error(error: PeelError) -> None:
    parts = {"what": error.what, "where": error.where, "hint": error.hint}
    emit("error", code=error.code, message=str(error), **parts)


@contextlib.contextmanager
def progress_reporter(json_lines: bool) -> Iterator[ProgressCallback]:
    """A progress callback: JSON lines, a bar on a terminal, or a line per stage in a log file."""
    if json_lines:
        yield _json_progress
    elif sys.stderr.isatty():
        bars = _Bars()
        try:
            yield bars
        finally:
            bars.close()
    else:
        yield _Lines()


def _json_progress(progress: Progress) -> None:
    emit(
        "progress",
        stage=progress.stage,
        step=progress.step,
        total=progress.total,
        eta=None if progress.eta_seconds is None else round(progress.eta_seconds, 1),
        metrics={name: round(value, 3) for name, value in progress.metrics.items()},
    )


class _Bars:
    """One tqdm bar per stage."""

    def __init__(self) -> None:
        self._bar = None
        self._stage = None

    def __call__(self, progress: Progress) -> None:
        from tqdm import tqdm

        if progress.stage != self._stage:
            self.close()
            self._stage = progress.stage
            self._bar = tqdm(
                total=progress.total,
                desc=progress.stage,
                bar_format="{desc:15} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
            )
        if progress.metrics:
            text = {name: f"{value:.2f}" for name, value in progress.metrics.items()}
            self._bar.set_postfix(text, refresh=False)
        self._bar.update(progress.step - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class _Lines:
    """Without a terminal: a line when a stage is a tenth further."""

    def __init__(self) -> None:
        self._last = ("", -1)

    def __call__(self, progress: Progress) -> None:
        tenth = 10 * progress.step // max(1, progress.total)
        if (progress.stage, tenth) != self._last:
            self._last = (progress.stage, tenth)
            metrics = "".join(f"  {n} {v:.2f}" for n, v in progress.metrics.items())
            print(f"{progress.stage}: {10 * tenth} %{metrics}", file=sys.stderr, flush=True)
