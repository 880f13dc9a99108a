"""`beamish user`: accounts, with the server running or stopped."""

import secrets
import sys
from typing import Annotated

import typer
from rich.table import Table

from beamish.cli.console import ConfigOption, JsonOption, config_file, load_or_exit, print_json, run_command, screen
from beamish.config.values import account_address, domain_name
from beamish.xmpp.jid import JID

commands = typer.Typer(
    help="Accounts, with the server running or stopped. Called by root, it acts as the owner of the data directory.",
    no_args_is_help=True,
)


def _account(text: str) -> JID:
    try:
        return account_address(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} {error}") from None


def _domain(text: str) -> str:
    try:
        return domain_name(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} {error}") from None


Account = Annotated[JID, typer.Argument(metavar="JID", parser=_account, help="The account, as in me@example.org.")]
PasswordStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from standard input (its first line).")
]
RandomPassword = Annotated[bool, typer.Option("--random", help="Make up a password and print it.")]


@commands.command()
def add(
    jid: Account,
    password_stdin: PasswordStdin = False,
    random: RandomPassword = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an account. Asks for the password twice, unless told where it comes from."""
    _set_password("user.add", "added", jid, password_stdin, random, config, as_json)


@commands.command()
def passwd(
    jid: Account,
    password_stdin: PasswordStdin = False,
    random: RandomPassword = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give an account another password."""
    _set_password("user.passwd", "changed", jid, password_stdin, random, config, as_json)


def _set_password(
    command: str, done: str, jid: JID, from_stdin: bool, random: bool, config: ConfigOption, as_json: bool
) -> None:
    if from_stdin and random:
        raise typer.BadParameter("--password-stdin and --random exclude each other")
    loaded = load_or_exit(config_file(config))
    password = _password(from_stdin, random)
    run_command(loaded, command, {"jid": str(jid), "password": password})
    # A password is repeated only when it was made here: nobody knows it yet.
    if as_json:
        print_json({"jid": str(jid), "password": password} if random else {"jid": str(jid)})
    elif random:
        print(password)
    else:
        print(f"{done}: {jid}", file=sys.stderr)


def _password(from_stdin: bool, random: bool) -> str:
    if random:
        return secrets.token_urlsafe(15)
    if from_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        password = typer.prompt(
            "Password", hide_input=True, confirmation_prompt="Again", default="", show_default=False
        )
    if not password:
        raise typer.BadParameter("the password is empty")
    return password


@commands.command("list")
def list_accounts(
    domain: Annotated[str | None, typer.Argument(parser=_domain, help="Only this domain's accounts.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the accounts, one per line."""
    accounts = run_command(load_or_exit(config_file(config)), "user.list", {"domain": domain} if domain else {})
    if as_json:
        print_json(accounts)
    elif sys.stdout.isatty():
        table = Table("Account", caption=f"{len(accounts)} in all")
        for account in accounts:
            table.add_row(account["jid"])
        screen().print(table)
    else:
        for account in accounts:
            print(account["jid"])


@commands.command()
def remove(
    jid: Account,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove an account with everything stored for it. On a terminal it asks first."""
    loaded = load_or_exit(config_file(config))
    if not yes and sys.stdin.isatty():
        typer.confirm(f"Remove {jid} with everything stored for it?", abort=True)
    run_command(loaded, "user.remove", {"jid": str(jid)})
    if as_json:
        print_json({"jid": str(jid)})
    else:
        print(f"removed: {jid}", file=sys.stderr)
