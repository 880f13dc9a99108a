"""Instructions executed in user mode, from the processor's own counters: unlike time they do not depend on clock frequency,
on caches that others fill, or on what else the machine does.

Many virtual machines do not pass the counters through; then there is no figure, and CPU time is the only measure.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Final

HARDWARE_INSTRUCTIONS: Final = (0, 1)
"""PERF_TYPE_HARDWARE, PERF_COUNT_HW_INSTRUCTIONS."""
SOFTWARE_TASK_CLOCK: Final = (1, 1)
"""PERF_TYPE_SOFTWARE, PERF_COUNT_SW_TASK_CLOCK: nanoseconds, which every machine has."""

_SYSCALLS: Final = {"x86_64": 298, "aarch64": 241, "ppc64le": 319, "s390x": 331, "riscv64": 241}
_SIZE: Final = 64  # of the first version of struct perf_event_attr; later kernels take it
_INHERIT, _EXCLUDE_KERNEL, _EXCLUDE_HYPERVISOR = 1 << 1, 1 << 5, 1 << 6


class Unsupported(OSError):
    """The kernel or the machine does not count this."""


class Counter:
    """Counts an event in threads of processes and in the threads these start later, from `start` until `stop`.

    perf_event_open(2). Raises `Unsupported` from `start` when that cannot be done.
    """

    def __init__(self, event: tuple[int, int] = HARDWARE_INSTRUCTIONS) -> None:
        self._event = event
        self._open: list[int] = []

    def start(self, pids: Iterable[int] | None = None) -> Counter:
        """Begin to count: all threads of these processes, or without any the calling thread alone."""
        try:
            for thread in [0] if pids is None else threads_of(pids):
                try:
                    self._open.append(_open(self._event, thread))
                except ProcessLookupError:
                    continue  # that thread ended in the meantime
        except BaseException:
            self.close()
            raise
        return self

    def read(self) -> int:
        """What was counted so far."""
        return sum(struct.unpack("Q", os.read(counter, 8))[0] for counter in self._open)

    def stop(self) -> int:
        """What was counted; ends counting."""
        try:
            return self.read()
        finally:
            self.close()

    def close(self) -> None:
        """Give the kernel's counters back."""
        for counter in self._open:
            os.close(counter)
        self._open.clear()

    def __enter__(self) -> Counter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def threads_of(pids: Iterable[int]) -> list[int]:
    """The threads of processes that live now."""
    found = []
    for pid in pids:
        try:
            found += [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()]
        except OSError:
            continue
    return found


@lru_cache(1)
def available() -> bool:
    """Whether this machine counts instructions."""
    try:
        with Counter().start():
            return True
    except OSError:
        return False


def _open(event: tuple[int, int], thread: int) -> int:
    number = _SYSCALLS.get(os.uname().machine)
    if number is None:
        raise Unsupported("the number of perf_event_open is not known for this processor")
    kind, config = event
    flags = _INHERIT | _EXCLUDE_KERNEL | _EXCLUDE_HYPERVISOR
    attributes = struct.pack("IIQQQQQIIQ", kind, _SIZE, config, 0, 0, 0, flags, 0, 0, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    counter = libc.syscall(number, ctypes.create_string_buffer(attributes, _SIZE), thread, -1, -1, 0)
    if counter < 0:
        error = ctypes.get_errno()
        if error == errno.ESRCH:
            raise ProcessLookupError(error, os.strerror(error))
        raise Unsupported(error, os.strerror(error))
    return int(counter)
