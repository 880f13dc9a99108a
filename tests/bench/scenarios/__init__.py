"""The scenarios, one file each: how many accounts it needs, and what it does with them.

A scenario is a module with `accounts(options) -> int` and `async run(bench) -> list[Row]`, and perhaps
`SECURITIES`, the kinds of connection it is run with (else what the command line says), each on a server of its own.
To add a scenario, write the file and enter it below.
"""

from __future__ import annotations

from types import ModuleType

from tests.bench.scenarios import chat, idle, login, muc, offline, pep, ping, presence

SCENARIOS: dict[str, ModuleType] = {
    module.__name__.rpartition(".")[2]: module for module in (chat, presence, ping, login, offline, idle, muc, pep)
}
