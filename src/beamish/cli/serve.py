"""`beamish serve`: the server in the foreground."""

import asyncio
import faulthandler
import os
import signal
import sys
from typing import Annotated

import typer

from beamish.cli import demo as demonstration
from beamish.cli.console import (
    UNSTARTABLE,
    ConfigOption,
    JsonOption,
    become_owner,
    check_program,
    config_file,
    expected_failures,
    fail,
    load_or_exit,
    module_classes,
    reason,
    run_server,
    screen,
)
from beamish.config import Config, load

DemoOption = Annotated[
    bool, typer.Option("--demo", help="Make two accounts to try it with, and print how to connect. For a first look.")
]


def serve(config: ConfigOption = None, demo: DemoOption = False, as_json: JsonOption = False) -> None:
    """Run the server until SIGTERM or Ctrl-C; SIGHUP reads certificates and log settings again.

    Called by root, it goes on as the owner of the data directory. With --demo and no file, the system's configuration is
    left aside and ./var is used.
    """
    from beamish import app

    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what a reload would read is still to be read
    path = config if demo else config_file(config)
    faulthandler.enable(2)  # a watchdog ends the process by SIGABRT: the log shall say what it was doing
    loaded = load_or_exit(path, UNSTARTABLE, told=False)
    if become_owner(loaded.server.data_dir):
        check_program()
    accounts: dict[str, str] = {}
    if demo:
        try:
            accounts = asyncio.run(demonstration.prepare(loaded, app.run_command))
        except expected_failures() as error:
            fail(f"the demo accounts cannot be made: {reason(error)}")

    def reload() -> Config:
        """The configuration as it stands now; raises `ConfigProblems`, upon which the server keeps what it has."""
        return load(path, module_classes())

    def ready(listening: list[str]) -> None:
        if as_json:
            print(demonstration.as_json(accounts, listening), flush=True)
        elif demo:
            demonstration.tell(screen(), loaded, accounts, listening)

    if run_server(app.serve(loaded, reload=reload, ready=ready)):
        # the same process, so that whoever supervises it sees no end
        os.execv(sys.executable, [sys.executable, "-m", "beamish", *sys.argv[1:]])
