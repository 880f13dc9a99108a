"""The scenarios, one file each: how many accounts it needs, and what it does with them.

A scenario is a module with `accounts(options) -> int` and `async run(bench) -> list[Row]`, and perhaps
`SECURITIES`, the kinds of connection it is run with (else what the command line says), each on a server of its own;
`friends(options)`, the rosters that must exist; `RATE`, how much is moderate when latencies are measured;
`ARCHIVE = True` if it makes no sense without the archive. To add a scenario, write the file and enter it below.
"""

from __future__ import annotations

from types import ModuleType

from tests.bench.scenarios import archive, chat, contacts, crowd, idle, login, mixed, muc, offline, pep, ping, presence

SCENARIOS: dict[str, ModuleType] = {
    module.__name__.rpartition(".")[2]: module
    for module in (chat, presence, ping, login, contacts, offline, archive, idle, crowd, muc, pep, mixed)
}
