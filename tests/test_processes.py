"""Processes of a pool end with the one that started them, and at once where an error leaves it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from peel4d.engine.train.footage_pool import Footage, FootagePool

PARENT = """
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import active_children, get_context
from peel4d.engine.machine import end_with_parent

if __name__ == "__main__":
    pool = ProcessPoolExecutor(2, mp_context=get_context("spawn"), initializer=end_with_parent)
    for _ in range(6):
        pool.submit(time.sleep, 60)
    print(*(child.pid for child in active_children()), flush=True)
    time.sleep(60)
"""


def alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc tells who is alive")
def test_nobody_outlives_a_parent_that_was_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        children = [int(pid) for pid in parent.stdout.readline().split()]
        time.sleep(3.0)  # they load their libraries
        assert len(children) == 2 and all(map(alive, children))
        os.kill(parent.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while any(map(alive, children)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, children))


@dataclass(frozen=True)
class Sleep:
    seconds: float

    def run(self, footage: Footage | None) -> float:
        if self.seconds < 0:
            raise ValueError("too short")
        time.sleep(self.seconds)
        return self.seconds


def test_an_error_ends_what_is_at_work():
    begun = time.monotonic()
    jobs = [Sleep(0.0), Sleep(-1.0), Sleep(120.0), Sleep(120.0)]
    with pytest.raises(ValueError, match="too short"), FootagePool(None, 2) as pool:
        parts = pool.each(jobs)
        assert next(parts) == 0.0
        list(parts)
    assert time.monotonic() - begun < 60
    assert not multiprocessing.active_children()


def test_results_come_in_order_and_from_other_processes():
    with FootagePool(None, 2) as pool:
        assert list(pool.each([Sleep(0.5), Sleep(0.0), Sleep(0.1)])) == [0.5, 0.0, 0.1]
        assert pool.do(Sleep(0.0)) == 0.0
