"""`python -m beamish` is the `beamish` command."""

from beamish.cli import main

main()
