"""XEP-0077: accounts made, changed and given up by clients, with forms (XEP-0004), challenges (XEP-0158) and invitations
(XEP-0445).

Making accounts is closed unless the configuration opens it or the client shows an invitation; changing one's password
and giving up one's account is always possible, if not forbidden. Not here: invitations themselves, and data about the
account's owner: a name and a password are all that is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal
from weakref import WeakKeyDictionary

import structlog
from pydantic import Field as Option
from pydantic import field_validator, model_validator

from beamish.core.events import Context
from beamish.core.module import Module, ModuleConfig, Scope, Xep, early_iq, iq
from beamish.core.services import AccountsService, Invitation, InvitesService
from beamish.core.sessions import Link, Session
from beamish.modules.register.captcha import BOB, Challenge, Question
from beamish.modules.register.limits import Allowance
from beamish.storage.api import Cursor
from beamish.stream.features import Has, StreamFeature
from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, StanzaError, StreamError, StreamErrorCondition
from beamish.xmpp.jid import JID, JidMalformed, prepare_local
from beamish.xmpp.payload import forms
from beamish.xmpp.payload.forms import Field, Form, Submission
from beamish.xmpp.stanza import Stanza
from beamish.xmpp.xml import Element, make, to_bytes

log = structlog.get_logger(__name__)

REGISTER: Final = "jabber:iq:register"
PARS: Final = "urn:xmpp:pars:0"
QUERY: Final = f"{{{REGISTER}}}query"
_CHANGE: Final = f"{REGISTER}:changepassword"
_OOB: Final = "{jabber:x:oob}"
_CHALLENGE_SECONDS: Final = 600.0
_STRANGERS_NAMES: Final = (
    *(f"{{{REGISTER}}}{name}" for name in ("query", "username", "password", "remove", "instructions", "registered")),
    *(f"{{{ns.DATA}}}{name}" for name in ("x", "field", "value", "title", "instructions", "required")),
    f"{{{PARS}}}preauth",
    f"{{{BOB}}}data",
    *("token", "cid", "label", "max-age"),
)
"""What a registration may consist of; anything else that strangers name does not come through (`stream.gate`)."""


class QuestionConfig(ModuleConfig):
    """A question, and the answers that will do."""

    question: str = Option(max_length=500, description="The question.")
    answers: tuple[str, ...] = Option(min_length=1, max_length=50, description="Right answers; capitals do not matter.")


class Config(ModuleConfig):
    """Options of in-band registration."""

    open: bool = Option(
        False, description="Whether anybody may make an account. Without it, only who was invited (`beamish invite`)."
    )
    captcha: Literal["none", "image", "question", "either"] = Option(
        "image",
        description="What a stranger must solve: read letters in an image, answer one of `questions`, one of both, or "
        "nothing. Who was invited need not.",
    )
    questions: tuple[QuestionConfig, ...] = Option(
        (),
        max_length=1000,
        description="Questions to ask, for `captcha` of `question` and `either`.",
        examples=[[{"question": "What is the capital of France?", "answers": ["Paris"]}]],
    )
    instructions: str = Option(
        "Choose a name and a password.", max_length=2000, description="What the form says to those who register."
    )
    website: str = Option(
        "",
        max_length=1000,
        pattern=r"^(https?://[^\s]+)?$",
        description="Where accounts are made, if not here: clients show this address to those who want to register.",
        examples=["https://example.org/join"],
    )
    reserved: tuple[str, ...] = Option(
        (
            "abuse",
            "admin",
            "administrator",
            "hostmaster",
            "info",
            "noreply",
            "postmaster",
            "root",
            "security",
            "support",
            "webmaster",
        ),
        max_length=10_000,
        description="Names that nobody may register; `beamish user add` may.",
    )
    username_length: int = Option(
        64, ge=1, le=1023, description="Longest name in characters. RFC 7622 allows 1023 bytes."
    )
    password_length: int = Option(8, ge=1, le=100, description="Shortest password, in characters.")
    per_address: int = Option(
        3, ge=1, le=100_000, description="Accounts made from one address (for IPv6, one /64 network) in a day."
    )
    per_hour: int = Option(100, ge=1, le=1_000_000, description="Accounts made in an hour in all, without invitation.")
    tries_per_address: int = Option(
        30, ge=1, le=100_000, description="Forms, answers and tokens from one address in an hour, right or wrong."
    )
    change_password: bool = Option(True, description="Whether users may change their password with their client.")
    cancel: bool = Option(True, description="Whether users may give up their account with their client.")

    @field_validator("reserved")
    @classmethod
    def _as_in_addresses(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        """`Root` is the account `root`, which is what a client's wish is compared with. Raises `ValueError`."""
        return tuple(prepare_local(name) for name in names)

    @model_validator(mode="after")
    def _questions_to_ask(self) -> Config:
        if self.captcha in ("question", "either") and not self.questions:
            raise ValueError(f"captcha = {self.captcha!r} needs questions")
        return self


@dataclass(slots=True)
class _Visit:
    """What is known of one connection that may be about to register."""

    invitation: Invitation | None = None
    challenge: Challenge | None = None
    asked: float = 0.0
    done: bool = False


class RegisterModule(Module):
    """Makes, changes and removes accounts for clients."""

    name = "register"
    Config = Config
    xeps = (
        Xep(77, "2.4"),
        Xep(158, "1.0.1", note="images and questions, for registration"),
        Xep(221, "1.0"),
        Xep(231, "1.1", note="for CAPTCHA images"),
        Xep(445, "0.2.0"),
    )
    features = (REGISTER,)
    requires = (AccountsService,)

    async def start(self) -> None:
        """Make known what strangers may say."""
        clock = self.kernel.clock
        self._accounts = self.kernel.service(AccountsService)
        self._visits: WeakKeyDictionary[Link, _Visit] = WeakKeyDictionary()
        config = self.config
        self._made = Allowance(config.per_address, 1_000_000, 86_400.0, clock.monotonic)
        self._made_in_all = Allowance(config.per_hour, config.per_hour, 3600.0, clock.monotonic)
        self._tries = Allowance(config.tries_per_address, 100_000, 3600.0, clock.monotonic)
        self._questions = tuple(Question(q.question, q.answers) for q in config.questions)
        self.kernel.names.learn(_STRANGERS_NAMES)

    async def ready(self) -> None:
        """Offer what is possible: registration to everybody, or to those with a token."""
        self._invites = self.kernel.service_or_none(InvitesService)
        offered = []
        if self._invites is not None:
            offered.append("urn:xmpp:ibr-token:0")
        if offered or self.config.open or self.config.website:
            # clients with a token look for this one as well (XEP-0445 §4)
            offered.append("http://jabber.org/features/iq-register")
        self.stream_features = tuple(
            StreamFeature(f"<register xmlns='{namespace}'/>".encode(), needs=Has.NOTHING, forbids=Has.AUTHENTICATED)
            for namespace in offered
        )

    # ---- strangers --------------------------------------------------------------------------------------------------

    @early_iq(f"{{{PARS}}}preauth")
    async def preauth(self, link: Link, stanza: Stanza) -> Stanza:
        """A client shows its invitation (XEP-0445 §5)."""
        if self._invites is None:
            raise StanzaError(Condition.SERVICE_UNAVAILABLE)
        if not self._tries.take(link.network):
            raise _too_often()
        token = stanza.el[0].get("token", "")
        found = await self._invites.check(token, link.domain) if stanza.type == "set" and token else None
        if found is None:
            raise StanzaError(Condition.ITEM_NOT_FOUND, text="The provided token is invalid or expired")
        self._visit(link).invitation = found
        return stanza.reply()

    @early_iq(f"{{{BOB}}}data")
    def image(self, link: Link, stanza: Stanza) -> Stanza:
        """The image of the challenge once more (XEP-0231 §2.3); it came with the form already."""
        visit = self._visits.get(link)
        challenge = None if visit is None else visit.challenge
        if stanza.type != "get" or challenge is None or not challenge.image or challenge.cid != stanza.el[0].get("cid"):
            raise StanzaError(Condition.ITEM_NOT_FOUND)
        return stanza.reply(challenge.data())

    @early_iq(QUERY)
    async def register(self, link: Link, stanza: Stanza) -> Stanza:
        """A stranger asks what is wanted (§3.1), or gives it."""
        if stanza.to is not None and (stanza.to.local or stanza.to.domain != link.domain):
            raise StanzaError(Condition.NOT_ALLOWED, text="not before you have logged in")
        visit = self._visit(link)
        if visit.done:
            raise StanzaError(Condition.NOT_ACCEPTABLE, text="one account is enough for one connection")
        if not self.config.open and visit.invitation is None:
            if stanza.type == "get" and self.config.website:
                return stanza.reply(self._elsewhere())
            raise StanzaError(Condition.NOT_ALLOWED, text="accounts are not made this way here")
        if not self._tries.take(link.network):
            raise _too_often()
        if stanza.type == "get":
            return stanza.reply(self._form(link, visit, stanza.id))
        if stanza.type != "set":
            raise StanzaError(Condition.BAD_REQUEST)
        await self._make(link, visit, stanza.el[0])
        return stanza.reply()

    def _visit(self, link: Link) -> _Visit:
        return self._visits.setdefault(link, _Visit())

    def _elsewhere(self) -> Element:
        url = make(f"{_OOB}x", None, make(f"{_OOB}url", None, self.config.website))
        text = make(f"{{{REGISTER}}}instructions", None, f"To register, visit {self.config.website}")
        return make(QUERY, None, text, url)

    def _form(self, link: Link, visit: _Visit, request_id: str) -> bytes:
        """What is wanted: as a form, and as plain fields where these are enough (§6)."""
        name = "" if visit.invitation is None else visit.invitation.username
        fields = (
            Field("username", "text-single", (name,) if name else (), "User name", required=True),
            Field("password", "text-private", (), "Password", required=True),
        )
        instructions = self.config.instructions
        form = Form.of("form", REGISTER, fields, title="Make an account", instructions=instructions).to_xml()
        query = make(QUERY)
        if self._must_solve(visit):
            image, question = self.config.captcha in ("image", "either"), self.config.captcha in ("question", "either")
            visit.challenge = Challenge.new(image=image, questions=self._questions if question else ())
            visit.asked = self.kernel.clock.monotonic()
            visit.challenge.put_into(form, request_id, link.domain)
            where = f", or visit {self.config.website}" if self.config.website else ""
            query.append(
                make(f"{{{REGISTER}}}instructions", None, f"A client that knows data forms can register here{where}.")
            )
            query.append(form)
            if visit.challenge.image:
                query.append(visit.challenge.data())
            if self.config.website:
                query.append(make(f"{_OOB}x", None, make(f"{_OOB}url", None, self.config.website)))
        else:
            query.append(make(f"{{{REGISTER}}}instructions", None, instructions))
            query.append(make(f"{{{REGISTER}}}username", None, name))
            query.append(make(f"{{{REGISTER}}}password"))
            query.append(form)
        return to_bytes(query)

    def _must_solve(self, visit: _Visit) -> bool:
        return visit.invitation is None and self.config.captcha != "none"

    async def _make(self, link: Link, visit: _Visit, query: Element) -> None:
        """Make the account that is asked for. Raises `StanzaError` with what is wrong."""
        if len(query) == 1 and query[0].tag == f"{{{REGISTER}}}remove":
            raise StanzaError(Condition.UNEXPECTED_REQUEST, text="whose account? log in first")
        submitted = query.find(forms.X)
        if submitted is None:
            given = Submission({_local(child): (child.text or "",) for child in query})
        else:
            # Psi and Psi+ fill in the form and send it back with the type that it came with
            given = Submission.from_xml(submitted, REGISTER, returned=True)
            if given.cancelled:
                return
        if self._must_solve(visit):
            self._check_answer(visit, given)
        user = self._address(given.text("username") or "", link.domain)
        password = given.text("password") or ""
        if len(password) < self.config.password_length:
            raise StanzaError(
                Condition.NOT_ACCEPTABLE, text=f"the password needs at least {self.config.password_length} characters"
            )
        invitation = visit.invitation
        await self._check_free(user, invitation)
        if not self._made.left(link.network) or (invitation is None and not self._made_in_all.left("")):
            log.warning("registration_limited", network=link.network)
            raise StanzaError(Condition.RESOURCE_CONSTRAINT, text="too many accounts were made lately, try again later")
        # ahead of the wait for the disk, in which others may ask
        counted = [(self._made, link.network, self._made.count(link.network))]
        if invitation is None:
            counted.append((self._made_in_all, "", self._made_in_all.count("")))
        invites = self._invites if invitation is not None else None

        def redeem(cursor: Cursor) -> None:
            if invitation is not None and invites is not None:
                invites.redeem(cursor, invitation, user)

        try:
            await self._accounts.add(user, password, redeem)
        except Exception:
            # a name that is taken is no account made: whoever chooses another must not find the day's share used up
            for allowance, key, at in counted:
                allowance.give_back(key, at)
            raise
        visit.done = True
        visit.challenge = None
        log.info("account_registered", user=str(user), peer=link.peer, invited=invitation is not None)
        if invitation is not None and invites is not None:
            await invites.joined(invitation, user)

    def _check_answer(self, visit: _Visit, given: Submission) -> None:
        """A challenge is good for one answer (XEP-0158 §3.1.4)."""
        challenge, visit.challenge = visit.challenge, None
        late = self.kernel.clock.monotonic() - visit.asked > _CHALLENGE_SECONDS
        if challenge is None or late or given.text("challenge") != challenge.id:
            raise StanzaError(Condition.SERVICE_UNAVAILABLE, text="ask for a new form and fill that in")
        if not challenge.solved(given.text("ocr"), given.text("qa")):
            raise StanzaError(Condition.NOT_ACCEPTABLE, text="the answer is wrong; ask for a new form")

    def _address(self, name: str, domain: str) -> JID:
        if not name:
            raise StanzaError(Condition.NOT_ACCEPTABLE, text="the name is missing")
        try:
            user = JID.parse(f"{name}@{domain}")
        except JidMalformed as exc:
            raise StanzaError(Condition.NOT_ACCEPTABLE, text="the name cannot be one") from exc
        if "@" in name or "/" in name or user.domain != domain or len(user.local) > self.config.username_length:
            raise StanzaError(Condition.NOT_ACCEPTABLE, text="the name cannot be one")
        return user

    async def _check_free(self, user: JID, invitation: Invitation | None) -> None:
        if invitation is not None and invitation.username:
            if invitation.username != user.local:
                raise StanzaError(Condition.NOT_ALLOWED, text=f"the invitation is for {invitation.username}")
            return  # somebody decided on that name
        taken = user.local in self.config.reserved
        if taken or (self._invites is not None and await self._invites.reserved(user)):
            raise StanzaError(Condition.CONFLICT, text=f"{user} is not to be had")

    # ---- users ------------------------------------------------------------------------------------------------------

    @iq(get=QUERY, scope=Scope.SERVER | Scope.OWN)
    def what_is_known(self, ctx: Context) -> Stanza:
        """What a registered user may change (§3.1.1)."""
        user = _user(ctx).bare
        query = make(
            QUERY,
            None,
            make(f"{{{REGISTER}}}registered"),
            make(f"{{{REGISTER}}}instructions", None, "Here you can change your password."),
            make(f"{{{REGISTER}}}username", None, user.local),
            make(f"{{{REGISTER}}}password"),
        )
        return ctx.stanza.reply(query)

    @iq(set=QUERY, scope=Scope.SERVER | Scope.OWN)
    async def change(self, ctx: Context) -> Stanza | None:
        """Change the password (§3.3) or give up the account (§3.2)."""
        session = _user(ctx)
        query = ctx.stanza.el[0]
        if query.find(f"{{{REGISTER}}}remove") is not None:
            if len(query) > 1:
                raise StanzaError(Condition.BAD_REQUEST, text="<remove/> must be alone")
            await self._give_up(ctx, session)
            return None
        if not self.config.change_password:
            raise StanzaError(Condition.NOT_ALLOWED)
        submitted = query.find(forms.X)
        if submitted is not None:
            given = Submission.from_xml(submitted, _CHANGE)
            if given.cancelled:
                return ctx.stanza.reply()
            name, password, old = given.text("username"), given.text("password"), given.text("old_password")
        else:
            name, password, old = (
                query.findtext(f"{{{REGISTER}}}username"),
                query.findtext(f"{{{REGISTER}}}password"),
                None,
            )
        if name is None or password is None:
            raise StanzaError(Condition.BAD_REQUEST, text="name and password are wanted")
        if self._address(name.partition("@")[0], session.bare.domain) != session.bare:
            raise StanzaError(Condition.FORBIDDEN, text="that is not your account")
        if not password:
            return ctx.stanza.reply()  # §3.3: an empty one changes nothing
        if old is not None and not await self._accounts.check_password(session.bare, old):
            raise StanzaError(Condition.NOT_AUTHORIZED, text="the old password is wrong")
        if len(password) < self.config.password_length:
            raise StanzaError(
                Condition.NOT_ACCEPTABLE, text=f"the password needs at least {self.config.password_length} characters"
            )
        await self._accounts.set_password(session.bare, password)
        return ctx.stanza.reply()

    async def _give_up(self, ctx: Context, session: Session) -> None:
        """§3.2: the stream that asked hears of the result when everything is gone, and then it ends, too."""
        if not self.config.cancel:
            raise StanzaError(Condition.NOT_ALLOWED)
        if session.bare in self.kernel.admins:
            raise StanzaError(Condition.NOT_ALLOWED, text="an administrator's account is not given up this way")
        # out of the table, so that it counts as closed to everybody, while its stream stays open for the answer
        self.kernel.end_session(session, "removed")
        error = StreamError(StreamErrorCondition.NOT_AUTHORIZED, "the account was removed")
        try:
            await self._accounts.remove(session.bare)
        except Exception:
            error = StreamError(StreamErrorCondition.INTERNAL_SERVER_ERROR)
            raise
        else:
            log.info("account_given_up", user=str(session.bare), peer=session.peer)
            session.outlet.last_words(ctx.stanza.reply().replace(to=session.jid).to_wire())
        finally:
            session.outlet.close(error, "removed")


def _user(ctx: Context) -> Session:
    """The session of the account that is meant; nobody else's than the sender's own."""
    session = ctx.origin
    if session is None or (ctx.stanza.to is not None and ctx.stanza.to.domain != session.bare.domain):
        raise StanzaError(Condition.FORBIDDEN)
    if session.anonymous:
        raise StanzaError(Condition.REGISTRATION_REQUIRED)
    return session


def _local(child: Element) -> str:
    tag = str(child.tag)
    return tag.removeprefix(f"{{{REGISTER}}}") if tag.startswith(f"{{{REGISTER}}}") else tag


def _too_often() -> StanzaError:
    return StanzaError(Condition.RESOURCE_CONSTRAINT, text="too many tries, come back later")
