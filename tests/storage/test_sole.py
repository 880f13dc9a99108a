"""One process at a time on a data directory."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from beamish.storage.sole import LOCK, DirectoryInUse, sole_user


async def test_the_second_is_told_who_has_it_and_may_have_it_afterwards(tmp_path: Path) -> None:
    async with sole_user(tmp_path):
        with pytest.raises(DirectoryInUse, match=rf"in use by .*process {os.getpid()}\)"):
            async with sole_user(tmp_path):
                pytest.fail("two have it")
    async with sole_user(tmp_path):
        pass
    assert (tmp_path / LOCK).stat().st_mode & 0o777 == 0o600


async def test_who_is_patient_gets_it_when_it_is_free(tmp_path: Path) -> None:
    order: list[str] = []

    async def second() -> None:
        async with sole_user(tmp_path, patience=30):
            order.append("second")

    async with sole_user(tmp_path):
        waiting = asyncio.create_task(second())
        await asyncio.sleep(0)  # it has tried in vain
        order.append("first")
    await waiting
    assert order == ["first", "second"]


async def test_it_is_free_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        async with sole_user(tmp_path):
            raise RuntimeError
    async with sole_user(tmp_path):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
async def test_what_root_makes_belongs_to_the_owner_of_the_directory(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 12346)
    async with sole_user(tmp_path):
        found = (tmp_path / LOCK).stat()
    assert (found.st_uid, found.st_gid) == (12345, 12346)
