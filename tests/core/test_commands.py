from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest

from beamish.core.commands import (
    CONSOLE,
    MAX_EACH,
    Access,
    Caller,
    Command,
    CommandError,
    CommandMark,
    Commands,
    Kind,
    Outcome,
    Param,
    parameters_of,
)
from beamish.core.sessions import SessionTable
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.xml import make

ROMEO = JID.parse("romeo@example.org/orchard")


class Kernel:
    admins = frozenset((JID.parse("juliet@example.net"),))
    sessions = SessionTable()

    def is_local_domain(self, domain: str) -> bool:
        return domain == "example.org"


class Owner:
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def everything(
        self,
        jid: Annotated[JID, Param("Who", var="accountjid")],
        jids: list[JID],
        lines: list[str],
        how: Literal["a", "b"] = "a",
        often: int | None = None,
        really: bool = False,
        password: Annotated[str, Param(kind=Kind.SECRET)] = "",
    ) -> dict[str, Any]:
        return {"jid": jid, "jids": jids, "lines": lines, "how": how, "often": often, "really": really}

    async def each(self, caller: Caller, jid: Annotated[JID, Param(each=True)]) -> str:
        self.seen.append((caller.jid, jid))
        if jid.local == "bad":
            raise StanzaError(Condition.ITEM_NOT_FOUND, text="no such")
        return str(jid)


def catalogue(**marks: Any) -> tuple[Commands, Owner]:
    owner, commands = Owner(), Commands(Kernel())  # type: ignore[arg-type]
    commands.add(Command.of(CommandMark("all", "All"), "test", owner.everything, owner))
    commands.add(Command.of(CommandMark("each", "Each", "urn:node", **marks), "test", owner.each, owner))
    return commands, owner


def test_parameters_come_from_the_signature() -> None:
    found = {p.name: p for p in parameters_of(Owner.everything)}
    assert found["jid"].var == "accountjid" and found["jid"].label == "Who" and found["jid"].required
    assert found["jid"].kind is Kind.JID and found["jids"].kind is Kind.JIDS and found["lines"].kind is Kind.LINES
    assert found["how"].options == ("a", "b") and found["how"].default == "a" and not found["how"].required
    assert found["often"].kind is Kind.NUMBER and found["really"].kind is Kind.BOOLEAN
    assert found["password"].kind is Kind.SECRET and found["lines"].label == "Lines"


def test_a_type_that_no_form_can_ask_for_is_refused() -> None:
    def wants(what: dict[str, str]) -> None:
        """Cannot be."""

    with pytest.raises(TypeError, match="cannot ask for what"):
        parameters_of(wants)


async def test_arguments_are_converted() -> None:
    commands, _ = catalogue()
    result = await commands.run(
        "all", {"jid": "A@example.org", "jids": ["b@c"], "lines": "x\ny", "often": "3", "really": "true"}
    )
    assert result["jid"] == JID.parse("a@example.org") and isinstance(result["jids"][0], JID)
    assert (result["lines"], result["often"], result["really"], result["how"]) == (["x", "y"], 3, True, "a")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"lines": "", "jids": []}, "accountjid is missing"),
        ({"jid": "@", "jids": [], "lines": ""}, "accountjid"),
        ({"jid": "a@b", "jids": ["@"], "lines": ""}, "jids"),
        ({"jid": "a@b", "jids": [], "lines": "", "often": "many"}, "often"),
        ({"jid": "a@b", "jids": [], "lines": "", "really": "maybe"}, "true or false"),
        ({"jid": "a@b", "jids": [], "lines": "", "how": "c"}, "one of a, b"),
        ({"jid": 7, "jids": [], "lines": ""}, "must be a text"),
        ({"jid": "a@b", "jids": [], "lines": "", "nonsense": "1"}, "no parameter nonsense"),
    ],
)
async def test_wrong_arguments_are_refused_with_the_name_of_the_field(given: dict[str, Any], text: str) -> None:
    commands, _ = catalogue()
    with pytest.raises(CommandError, match=text):
        await commands.run("all", given)


async def test_a_command_runs_for_each_value_until_one_fails() -> None:
    commands, owner = catalogue()
    assert await commands.run("each", {"jid": "a@b"}) == "a@b"
    assert await commands.run("each", {"jid": ["a@b", "a@b", "c@d"]}) == ["a@b", "c@d"]
    owner.seen.clear()
    with pytest.raises(CommandError, match="no such") as caught:
        await commands.run("each", {"jid": ["bad@b", "c@d"]})
    assert caught.value.condition is Condition.ITEM_NOT_FOUND
    assert [jid for _, jid in owner.seen] == ["bad@b"]
    for many in ([], ["a@b"] * 1001):
        with pytest.raises(CommandError, match="at once"):
            await commands.run("each", {"jid": many})


@pytest.mark.parametrize("access", list(Access))
async def test_who_may_run_a_command(access: Access) -> None:
    commands, owner = catalogue(access=access)
    command = commands.at("urn:node")
    assert command is not None
    stranger = Caller(JID.parse("iago@elsewhere.example/x"), "example.org")
    assert commands.permitted(command, CONSOLE)
    assert commands.permitted(command, Caller(JID.parse("juliet@example.net/x"), "example.org"))
    assert commands.permitted(command, Caller(ROMEO, "example.org")) is (access is Access.USER)
    assert not commands.permitted(command, stranger)
    with pytest.raises(CommandError) as caught:
        await commands.run("each", {"jid": "a@b"}, stranger)
    assert caught.value.condition is Condition.FORBIDDEN
    assert owner.seen == []


def test_names_and_nodes_are_unique() -> None:
    commands, owner = catalogue()
    with pytest.raises(ValueError, match="declared twice"):
        commands.add(Command.of(CommandMark("each", "", "urn:other"), "test", owner.each, owner))
    with pytest.raises(ValueError, match="same node"):
        commands.add(Command.of(CommandMark("other", "", "urn:node"), "test", owner.each, owner))
    commands.remove("test")
    assert list(commands) == [] and commands.at("urn:node") is None


async def test_a_function_that_is_no_modules_is_read_all_the_same() -> None:
    commands = Commands(Kernel())  # type: ignore[arg-type]

    def double(number: int) -> int:
        """Twice."""
        return 2 * number

    commands.add(Command("double", "Twice", "net", double))
    assert await commands.run("double", {"number": "21"}) == 42
    with pytest.raises(CommandError, match="there is no command"):
        await commands.run("triple", {})


class Module:
    """Marks of a module are read with the module at hand."""

    open_to_all = True

    def shown(self, caller: Caller) -> dict[str, Any]:
        return {"text": f"hello {caller.domain}"}

    async def later(self, text: str) -> Outcome:
        return Outcome(text.upper(), make("{urn:x}payload"))

    def fails(self, text: str) -> None:
        raise StanzaError(Condition.CONFLICT)


async def test_access_and_prefill_come_from_the_module() -> None:
    mark = CommandMark(
        "later", "Later", access=lambda module: Access.USER if module.open_to_all else Access.ADMIN, prefill="shown"
    )
    module = Module()
    command = Command.of(mark, "test", module.later, module)
    assert command.access is Access.USER
    assert command.node == "urn:beamish:command:later"
    assert command.prefill is not None
    assert command.prefill(Caller(domain="example.org")) == {"text": "hello example.org"}
    described = Command.of(mark, "test", Module.later)
    assert described.access is Access.ADMIN and described.prefill is None
    module.open_to_all = False
    assert Command.of(mark, "test", module.later, module).access is Access.ADMIN


async def test_a_result_may_come_later_and_bring_a_payload() -> None:
    commands = Commands(Kernel())  # type: ignore[arg-type]
    commands.add(Command.of(CommandMark("later", "Later"), "test", Module().later))
    command = commands.get("later")
    assert command is not None
    [outcome] = await commands.call(command, {"text": "a"}, CONSOLE)
    assert outcome.value == "A"
    assert outcome.payload is not None and outcome.payload.tag == "{urn:x}payload"
    assert await commands.run("later", {"text": "a"}) == "A"


async def test_what_cannot_be_run() -> None:
    commands = Commands(Kernel())  # type: ignore[arg-type]
    commands.add(Command.of(CommandMark("fails", "Fails"), "test", Module().fails))
    for name, given, text, condition in (
        ("nothing", {}, "there is no command nothing", Condition.ITEM_NOT_FOUND),
        ("fails", {"text": "a", "more": "b"}, "there is no parameter more", None),
        ("fails", {}, "text is missing", Condition.NOT_ACCEPTABLE),
        ("fails", {"text": 7}, "text: it must be a text", Condition.NOT_ACCEPTABLE),
        ("fails", {"text": "a"}, "conflict", Condition.CONFLICT),
    ):
        with pytest.raises(CommandError, match=text) as caught:
            await commands.run(name, given)
        assert caught.value.condition is condition
    stranger = Caller(JID.parse("stranger@example.com/a"))
    with pytest.raises(CommandError) as caught:
        await commands.run("fails", {"text": "a"}, stranger)
    assert caught.value.condition is Condition.FORBIDDEN


async def test_how_many_at_once_is_bounded() -> None:
    commands, owner = catalogue()
    with pytest.raises(CommandError, match="at once") as caught:
        await commands.run("each", {"jid": [f"u{n}@example.org" for n in range(MAX_EACH + 1)]})
    assert caught.value.condition is Condition.NOT_ACCEPTABLE
    with pytest.raises(CommandError, match="at once"):
        await commands.run("each", {"jid": []})
    assert owner.seen == []
    assert len(await commands.run("each", {"jid": ["a@example.org", "a@example.org"]})) == 1, "one value once"


def test_an_owners_commands_go_with_it() -> None:
    commands, owner = catalogue()
    commands.add(Command.of(CommandMark("other", "Other", "urn:other"), "somebody", owner.each, owner))
    assert [command.name for command in commands] == ["all", "each", "other"]
    commands.remove("test")
    assert [command.name for command in commands] == ["other"]
    assert commands.get("each") is None and commands.at("urn:node") is None
    found = commands.at("urn:other")
    assert found is not None and found.name == "other"
