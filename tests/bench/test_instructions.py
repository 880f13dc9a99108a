"""Counters of the kernel: tested with one that every machine has, its clock of the task."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from threading import Thread

import pytest
from tests.bench.instructions import SOFTWARE_TASK_CLOCK, Counter, Unsupported, available, threads_of


@pytest.fixture
def clock() -> Counter:
    counter = Counter(SOFTWARE_TASK_CLOCK)
    try:
        counter.start()
    except OSError as error:
        pytest.skip(f"perf_event_open is not allowed here: {error}")
    counter.close()
    return Counter(SOFTWARE_TASK_CLOCK)


def spin(seconds: float) -> None:
    ends = time.thread_time() + seconds
    while time.thread_time() < ends:
        pass


def test_this_thread_is_counted(clock: Counter) -> None:
    clock.start()
    spin(0.05)
    assert 0.04e9 < clock.stop() < 0.5e9


def test_threads_started_later_are_counted(clock: Counter) -> None:
    clock.start([os.getpid()])
    worker = Thread(target=spin, args=(0.05,))
    worker.start()
    worker.join()
    assert clock.stop() > 0.04e9


def test_another_process_is_counted(clock: Counter) -> None:
    code = "import sys\nsys.stdin.readline()\nfor _ in range(3_000_000): pass\nprint(flush=True)\nsys.stdin.readline()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin and other.stdout
        clock.start([other.pid])
        other.stdin.write("go\n")
        other.stdin.flush()
        other.stdout.readline()
        counted = clock.stop()
        other.stdin.write("end\n")
    assert counted > 0.01e9


def test_what_cannot_be_counted_is_refused_and_leaves_nothing_open() -> None:
    counter = Counter((0, 999_999))
    with pytest.raises(Unsupported):
        counter.start()
    assert counter.read() == 0


def test_a_process_that_is_gone_has_no_threads() -> None:
    assert threads_of([2**22 - 1]) == []
    assert os.getpid() in threads_of([os.getpid()])


def test_instructions_grow_with_work() -> None:
    if not available():
        pytest.skip("this machine does not count instructions")
    counts = []
    for rounds in (10_000, 1_000_000):
        with Counter().start() as counter:
            for _ in range(rounds):
                pass
            counts.append(counter.read())
    assert counts[1] > 10 * counts[0]
