"""Programs that a test runs to their end."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Ended:
    """How a program ended, and what it wrote."""

    status: int
    out: str
    err: str


async def run_to_end(
    *command: str | Path,
    seconds: float,
    text: str = "",
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    together: bool = False,
) -> Ended:
    """Run a program that reads `text`; with `together`, its errors are in `out`, as they came.

    Raises `TimeoutError` when it does not end within `seconds`; it is killed then.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env=env,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT if together else asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(text.encode()), seconds)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(errors="replace"), (err or b"").decode(errors="replace"))
