# SPDX-License-Identifier: GPL-3.0-or-later
"""A child process that speaks JSON lines, held so that it can neither block nor outlive Blender."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

#: Events that nobody has fetched; of progress only the newest waits.
MAX_EVENTS = 256
#: A line that is longer is no event of ours.
MAX_LINE = 1 << 20


class WorkerProcess:
    """Starts `command` and reads what it says on a thread of its own.

    No call blocks but `wait` and `close`.
    log: stderr is appended to this file. environment: replaces the inherited one.
    Raises OSError when the process cannot be started.
    """

    def __init__(self, command: Sequence[str], *, log: Path, environment: Mapping[str, str]):
        self._events: deque[dict] = deque()
        self._lock = threading.Lock()
        self._last_heard = time.monotonic()
        self.memory_bytes: int | None = None
        self._process = _start(command, log, environment)
        self._reader = threading.Thread(target=self._read, name="peel4d job", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs or has said things not read."""
        code = self._process.poll()
        return None if code is not None and self._reader.is_alive() else code

    def silence(self) -> float:
        """Seconds since the process was last heard of."""
        return time.monotonic() - self._last_heard

    def events(self) -> list[dict]:
        """What has been said since the last call, oldest first."""
        with self._lock:
            events = list(self._events)
            self._events.clear()
        return events

    def ask_to_cancel(self) -> None:
        """Write "cancel" to its stdin."""
        # A pipe that nobody reads holds these few bytes; a closed one means it has ended.
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(b"cancel\n")
            self._process.stdin.flush()

    def kill(self) -> None:
        """End it and its children at once, stopped or not."""
        if self._process.poll() is not None:
            return  # its number may be another's by now
        with contextlib.suppress(OSError):
            if os.name == "posix":
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()

    def wait(self, seconds: float) -> bool:
        """Whether it has ended within `seconds`."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        self._reader.join(1.0)
        return True

    def let_go(self, seconds: float = 5.0) -> None:
        """Give it `seconds` to leave by itself, then kill it; returns at once."""
        threading.Thread(target=self.close, args=(seconds,), name="peel4d job end").start()

    def close(self, seconds: float = 0.0) -> None:
        """Wait up to `seconds`, kill what is left and give the pipes back."""
        if not self.wait(seconds):
            self.kill()
            self.wait(5.0)
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def _read(self) -> None:
        with self._process.stdout as lines:
            while line := lines.readline(MAX_LINE):
                self._last_heard = time.monotonic()
                try:
                    event = json.loads(line)
                except ValueError:
                    continue  # a library that prints
                if isinstance(event, dict) and isinstance(event.get("event"), str):
                    self._take(event)

    def _take(self, event: dict) -> None:
        if event["event"] == "heartbeat":
            self.memory_bytes = event.get("memory_bytes")
            return
        with self._lock:
            replaceable = event["event"] in ("progress", "preview", "line")
            if replaceable:
                for index in range(len(self._events) - 1, -1, -1):
                    if self._events[index]["event"] == event["event"]:
                        del self._events[index]
                        break
            elif len(self._events) >= MAX_EVENTS:
                self._events.popleft()
            self._events.append(event)


def _start(
    command: Sequence[str], log: Path, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    platform: dict = {}
    if sys.platform == "win32":
        platform["creationflags"] = subprocess.CREATE_NO_WINDOW
    else:
        # Ctrl-C in the terminal of Blender is not for the worker, and killing the group reaches
        # what it has started.
        platform["start_new_session"] = True
    with open_log(log) as stderr:
        return subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=dict(environment),
            **platform,
        )


def open_log(path: Path):
    """The log file for appending; nowhere when it cannot be written (a full disk)."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("ab")
    except OSError:
        return Path(os.devnull).open("ab")


def tail(path: Path, lines: int = 1) -> str:
    """The last non-empty lines of a log."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 8192))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join([line.strip() for line in text.splitlines() if line.strip()][-lines:])
