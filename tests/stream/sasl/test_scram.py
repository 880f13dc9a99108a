from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slixmpp.util.sasl import client as _registry  # noqa: F401  # importing it registers the mechanisms
from slixmpp.util.sasl.mechanisms import SCRAM as SlixmppScram

from beamish.stream.sasl import (
    ALGORITHMS,
    Algorithm,
    Challenge,
    FailureCondition,
    NeedKeys,
    Offer,
    SaslFailure,
    Scram,
    ScramKeys,
    Step,
    Success,
    advertisement,
    decoy_keys,
    derive_keys,
    negotiate,
)

PASSWORD = "pencil"
KEYS: dict[Algorithm, ScramKeys] = {
    algorithm: derive_keys(PASSWORD, algorithm, iterations=8) for algorithm in ALGORITHMS
}
HASHES = {"SHA-1": "sha1", "SHA-256": "sha256", "SHA-512": "sha512"}
BINDINGS = {"tls-server-end-point": b"hash of the certificate", "tls-exporter": b"exported"}


@dataclass
class Client:
    """The other side, written from RFC 5802 alone: shares no code with the server."""

    algorithm: Algorithm
    password: str = PASSWORD
    username: str = "user"
    header: str = "n,,"
    binding: bytes = b""
    nonce: str = "fyko+d2lbbFgONRv9qkxdawL"
    extensions: str = ""
    signature: bytes = field(default=b"", init=False)

    def first(self) -> bytes:
        self.bare = f"n={self.username},r={self.nonce}{self.extensions}"
        return (self.header + self.bare).encode()

    def final(self, challenge: bytes) -> bytes:
        name = HASHES[self.algorithm]
        fields = dict(item.split("=", 1) for item in challenge.decode().split(","))
        assert fields["r"].startswith(self.nonce)
        assert len(fields["r"]) >= len(self.nonce) + 16
        salted = hashlib.pbkdf2_hmac(name, self.password.encode(), base64.b64decode(fields["s"]), int(fields["i"]))
        client_key = hmac.digest(salted, b"Client Key", name)
        channel = base64.b64encode(self.header.encode() + self.binding).decode()
        unproved = f"c={channel},r={fields['r']}{self.extensions}"
        message = f"{self.bare},{challenge.decode()},{unproved}".encode()
        stored_key = hashlib.new(name, client_key).digest()
        mask = hmac.digest(stored_key, message, name)
        self.signature = hmac.digest(hmac.digest(salted, b"Server Key", name), message, name)
        proof = base64.b64encode(bytes(a ^ b for a, b in zip(client_key, mask, strict=True))).decode()
        return f"{unproved},p={proof}".encode()

    def accepts(self, step: Step) -> bool:
        assert isinstance(step, Success)
        return step.data == b"v=" + base64.b64encode(self.signature)


def challenged(scram: Scram, first: bytes, keys: ScramKeys, exists: bool = True) -> bytes:
    step = scram.start(first)
    assert isinstance(step, NeedKeys)
    challenge = scram.keys(keys, exists)
    assert isinstance(challenge, Challenge)
    return challenge.data


def refused(scram: Scram, first: bytes) -> SaslFailure:
    with pytest.raises(SaslFailure) as caught:
        scram.start(first)
    return caught.value


@pytest.mark.parametrize(
    ("algorithm", "salt", "first", "server_nonce", "challenge", "final", "verifier"),
    [
        pytest.param(  # RFC 5802 §5
            "SHA-1",
            "QSXCR+Q6sek8bf92",
            b"n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
            "3rfcNHYJY1ZVvWVs7j",
            b"r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
            b"c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
            b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
            id="RFC 5802",
        ),
        pytest.param(  # RFC 7677 §3
            "SHA-256",
            "W22ZaJ0SNY7soEsUEjb6gQ==",
            b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
            "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
            b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
            b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
            b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
            id="RFC 7677",
        ),
    ],
)
def test_vectors(
    algorithm: Algorithm, salt: str, first: bytes, server_nonce: str, challenge: bytes, final: bytes, verifier: bytes
) -> None:
    scram = Scram(algorithm, nonce=server_nonce)
    assert scram.start(first) == NeedKeys("user", algorithm)
    keys = derive_keys("pencil", algorithm, salt=base64.b64decode(salt), iterations=4096)
    assert scram.keys(keys, True) == Challenge(challenge)
    assert scram.respond(final) == Success("user", "", verifier)


def test_example_of_xep_0515() -> None:
    """The whole exchange, with the hash of XEP-0474: what was offered and the version of TLS are under both signatures."""
    offer = Offer(
        tls=True,
        bindings={"tls-exporter": b"THIS IS FAKE CB DATA", "tls-server-end-point": b"x"},
        tls_version="0304",
        plain=False,
        algorithms=frozenset({"SHA-1"}),
    )
    scram = negotiate("SCRAM-SHA-1-PLUS", offer)
    assert isinstance(scram, Scram)
    scram._nonce = "a09117a6-ac50-4f2f-93f1-93799c2bddf6"
    nonce = "12C4CD5C-E38E-4A98-8F6D-15C38F51CCC6"
    keys = derive_keys("pencil", "SHA-1", salt=base64.b64decode("QSXCR+Q6sek8bf92"), iterations=4096)
    first = f"p=tls-exporter,,n=user,r={nonce}".encode()
    nonce += "a09117a6-ac50-4f2f-93f1-93799c2bddf6"
    challenge = challenged(scram, first, keys).decode()
    assert challenge == f"r={nonce},s=QSXCR+Q6sek8bf92,i=4096,h=G6k/rBLDqgOhRRaCuuatSDFkJ08=,t=0304"
    channel = "cD10bHMtZXhwb3J0ZXIsLFRISVMgSVMgRkFLRSBDQiBEQVRB"
    proof = scram.respond(f"c={channel},r={nonce},p=KHUfN8dSy1K95crT4D5y1ItLJfs=".encode())
    assert proof == Success("user", "", b"v=3w34ZIMVRkx2f2Ozb3/ecRPVdv4=")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("header", ["n,,", "y,,", "n,a=juliet@example.org,"])
def test_without_channel_binding(algorithm: Algorithm, header: str) -> None:
    client = Client(algorithm, header=header)
    scram = Scram(algorithm)
    step = scram.respond(client.final(challenged(scram, client.first(), KEYS[algorithm])))
    assert client.accepts(step)
    assert isinstance(step, Success)
    assert (step.username, step.authzid) == ("user", "juliet@example.org" if "a=" in header else "")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("kind", sorted(BINDINGS))
def test_with_channel_binding(algorithm: Algorithm, kind: str) -> None:
    offer = Offer(tls=True, bindings=BINDINGS)
    client = Client(algorithm, header=f"p={kind},a=juliet@example.org,", binding=BINDINGS[kind])
    scram = negotiate(f"SCRAM-{algorithm}-PLUS", offer)
    assert isinstance(scram, Scram)
    challenge = challenged(scram, client.first(), KEYS[algorithm])
    expected = base64.b64encode(hashlib.new(HASHES[algorithm], advertisement(offer)).digest())
    assert challenge.endswith(b",h=" + expected)  # XEP-0474
    assert client.accepts(scram.respond(client.final(challenge)))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_slixmpp_as_the_client(algorithm: Algorithm) -> None:
    security = {"encrypted": True, "tls_version": "TLSv1.3", "unencrypted_scram": False, "binding_proposed": True}
    credentials = {"username": b"user", "password": PASSWORD.encode(), "authzid": b"", "channel_binding": b"exported"}
    offer = Offer(tls=True, bindings=BINDINGS)
    for name in (f"SCRAM-{algorithm}", f"SCRAM-{algorithm}-PLUS"):
        foreign = SlixmppScram(name, credentials, security)
        scram = negotiate(name, offer)
        assert isinstance(scram, Scram)
        step = scram.respond(foreign.process(challenged(scram, foreign.process(), KEYS[algorithm])))
        assert isinstance(step, Success)
        foreign.process(step.data)  # raises if the server's signature is wrong


def test_without_initial_response() -> None:
    client = Client("SHA-1")
    scram = Scram("SHA-1")
    assert scram.start(None) == Challenge(b"")
    assert scram.respond(client.first()) == NeedKeys("user", "SHA-1")


def test_no_downgrade_protection_when_it_is_off() -> None:
    scram = negotiate("SCRAM-SHA-1", Offer(tls=True, tls_version="0304", downgrade_protection=False))
    assert isinstance(scram, Scram)
    told = challenged(scram, Client("SHA-1").first(), KEYS["SHA-1"])
    assert b",h=" not in told and b",t=" not in told


def test_every_exchange_has_its_own_nonce() -> None:
    first = Client("SHA-1").first()
    assert len({challenged(Scram("SHA-1"), first, KEYS["SHA-1"]) for _ in range(50)}) == 50


@pytest.mark.parametrize(
    ("sent", "username"),
    [
        ("a=2Cb=3Dc", "a,b=c"),
        ("=3D2C", "=2C"),
        ("\uff55ser", "user"),
        ("j\xfcrgen", "j\xfcrgen"),
        ("ju\u0308rgen", "j\xfcrgen"),
    ],
)
def test_user_names(sent: str, username: str) -> None:
    client = Client("SHA-1", username=sent)
    scram = Scram("SHA-1")
    assert scram.start(client.first()) == NeedKeys(username, "SHA-1")
    step = scram.keys(KEYS["SHA-1"], True)
    assert isinstance(step, Challenge)
    assert client.accepts(scram.respond(client.final(step.data)))  # the name is hashed as it was sent


def test_unknown_extensions_are_ignored_but_hashed() -> None:
    client = Client("SHA-1", extensions=",x=one,y=t=wo")
    scram = Scram("SHA-1")
    assert client.accepts(scram.respond(client.final(challenged(scram, client.first(), KEYS["SHA-1"]))))


@pytest.mark.parametrize(
    "first",
    [
        "",
        "n",
        "n,",
        "n,,",
        "x,,n=user,r=abc",
        "N,,n=user,r=abc",
        "n,,r=abc,n=user",
        "n,,n=user",
        "n,,n=,r=abc",
        "n,,n=user,r=",
        "n,,n=user,r=a\x7fc",
        "n,,n=user,r=a c",
        "n,,n=user,r=\xe9",
        "n,,n=us\0er,r=abc",
        "n,,n=us=er,r=abc",
        "n,,n=user=2c,r=abc",
        "n,,n=user=,r=abc",
        "n,a=,n=user,r=abc",
        "n,a=x=y,n=user,r=abc",
        "n,b=x,n=user,r=abc",
        "n,,n=user,r=abc,",
        "n,,n=user,r=abc,x",
        "n,,n=user,r=abc,x=",
        "n,,n=user,r=abc,1=x",
        "n,,n=user,r=abc,é=x",
        "n,,m=ext,n=user,r=abc",
        "n,,n=user,r=abc,m=ext",
        "n,,n=user,r=abc,x=y,m=ext",
        "p=,,n=user,r=abc",
        "p=tls_unique,,n=user,r=abc",
    ],
)
def test_malformed_first_messages(first: str) -> None:
    assert refused(Scram("SHA-1"), first.encode()).condition is FailureCondition.MALFORMED_REQUEST


def test_first_message_that_is_not_utf_8() -> None:
    assert refused(Scram("SHA-1"), b"n,,n=\xff,r=abc").condition is FailureCondition.MALFORMED_REQUEST


@pytest.mark.parametrize("username", ["\x07", "\xad", "\u06271"])
def test_user_names_that_cannot_be_prepared(username: str) -> None:
    failure = refused(Scram("SHA-1"), Client("SHA-1", username=username).first())
    assert failure.condition is FailureCondition.NOT_AUTHORIZED


@pytest.mark.parametrize("header", ["n,,", "y,,", "p=tls-unique,,"])
def test_plus_needs_a_binding_that_is_there(header: str) -> None:
    scram = Scram("SHA-1", plus=True, bindings=BINDINGS, plus_advertised=True)
    failure = refused(scram, Client("SHA-1", header=header).first())
    assert failure.condition is FailureCondition.MALFORMED_REQUEST


def test_a_binding_needs_plus() -> None:
    scram = Scram("SHA-1", bindings=BINDINGS, plus_advertised=True)
    failure = refused(scram, Client("SHA-1", header="p=tls-exporter,,").first())
    assert failure.condition is FailureCondition.MALFORMED_REQUEST


def test_a_client_that_was_not_shown_plus_notices() -> None:
    # RFC 5802 §6: "y" means that the client would have bound, had it seen that it may.
    offer = Offer(tls=True, bindings=BINDINGS)
    scram = negotiate("SCRAM-SHA-256", offer)
    with pytest.raises(SaslFailure) as caught:
        scram.start(Client("SHA-256", header="y,,").first())
    assert caught.value.condition is FailureCondition.NOT_AUTHORIZED
    assert isinstance(negotiate("SCRAM-SHA-256", offer).start(Client("SHA-256").first()), NeedKeys)


def test_binding_of_another_channel() -> None:
    client = Client("SHA-1", header="p=tls-exporter,,", binding=b"of the attacker")
    scram = Scram("SHA-1", plus=True, bindings=BINDINGS)
    final = client.final(challenged(scram, client.first(), KEYS["SHA-1"]))
    with pytest.raises(SaslFailure) as caught:
        scram.respond(final)
    assert caught.value.condition is FailureCondition.NOT_AUTHORIZED


@pytest.mark.parametrize("header", ["y,,", "n,a=romeo@example.org,", "n,,x"])
def test_header_that_changed_on_the_way(header: str) -> None:
    client = Client("SHA-1")
    scram = Scram("SHA-1")
    challenge = challenged(scram, client.first(), KEYS["SHA-1"])
    client.header = header
    with pytest.raises(SaslFailure) as caught:
        scram.respond(client.final(challenge))
    assert caught.value.condition is FailureCondition.NOT_AUTHORIZED


def test_wrong_password_and_unknown_user_look_the_same() -> None:
    outcomes = []
    decoy = decoy_keys(b"secret", "user", "SHA-1", KEYS["SHA-1"].iterations)
    for keys, exists, password in [(KEYS["SHA-1"], True, "wrong"), (decoy, False, PASSWORD), (decoy, False, "wrong")]:
        client = Client("SHA-1", password=password)
        scram = Scram("SHA-1", nonce="0123456789abcdef")
        challenge = challenged(scram, client.first(), keys, exists)
        with pytest.raises(SaslFailure) as caught:
            scram.respond(client.final(challenge))
        salt = base64.b64encode(keys.salt)
        outcomes.append((challenge.replace(salt, b""), caught.value.condition, caught.value.text))
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert outcomes[0][1:] == (FailureCondition.NOT_AUTHORIZED, "")


def test_a_right_proof_does_not_help_a_user_who_is_not_there() -> None:
    client = Client("SHA-1")
    scram = Scram("SHA-1")
    final = client.final(challenged(scram, client.first(), KEYS["SHA-1"], exists=False))
    with pytest.raises(SaslFailure) as caught:
        scram.respond(final)
    assert caught.value.condition is FailureCondition.NOT_AUTHORIZED


def final_with(change: object) -> SaslFailure:
    client = Client("SHA-1")
    scram = Scram("SHA-1", nonce="0123456789abcdef")
    final = client.final(challenged(scram, client.first(), KEYS["SHA-1"])).decode()
    changed = change(final)  # type: ignore[operator]
    assert changed != final
    with pytest.raises(SaslFailure) as caught:
        scram.respond(changed.encode("utf-8", "surrogateescape"))
    return caught.value


@pytest.mark.parametrize(
    "change",
    [
        lambda final: "",
        lambda final: "\udcff",
        lambda final: final.replace(",p=", ",q="),
        lambda final: final + ",x=y",
        lambda final: final.replace("c=biws,", ""),
        lambda final: final.replace("c=biws", "c=b iws"),
        lambda final: final.replace(",r=", ",s="),
        lambda final: final.replace(",p=", ",m=x,p="),
        lambda final: final.replace(",p=", ",x=1,m=x,p="),
        lambda final: final.replace(",p=", ",x,p="),
        lambda final: final[: final.index(",p=")] + ",p=",
        lambda final: final[: final.index(",p=")] + ",p=QQ",
        lambda final: final[: final.index(",p=")] + ",p=QR==",
        lambda final: final + "\n",
    ],
)
def test_malformed_final_messages(change: object) -> None:
    assert final_with(change).condition is FailureCondition.MALFORMED_REQUEST


@pytest.mark.parametrize(
    "change",
    [
        lambda final: final.replace("0123456789abcdef", "0123456789abcdeX"),
        lambda final: final.replace("0123456789abcdef", ""),
        lambda final: final.replace("c=biws", "c=eSws"),
        lambda final: final.replace("c=biws", "c=biwsAA=="),
        lambda final: final.replace(",p=", ",x=y,p="),  # not what was signed
        lambda final: final[: final.index(",p=")] + ",p=QQ==",
        lambda final: final[: final.index(",p=")] + ",p=" + base64.b64encode(bytes(20)).decode(),
        lambda final: final[: final.index(",p=")] + ",p=" + base64.b64encode(bytes(21)).decode(),
    ],
)
def test_final_messages_that_prove_nothing(change: object) -> None:
    assert final_with(change).condition is FailureCondition.NOT_AUTHORIZED


pieces = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "n",
                "y",
                "p=tls-exporter",
                "",
                "a=x",
                "n=user",
                "n=a=2Cb",
                "r=abc",
                "m=x",
                "x=y",
                "c=biws",
                "p=QQ==",
                "=",
                "\0",
            ]
        ),
        st.text(max_size=6),
    ),
    max_size=8,
).map(lambda parts: ",".join(parts).encode("utf-8", "surrogatepass"))
garbage = st.one_of(st.binary(max_size=60), pieces)


@given(garbage, st.booleans())
def test_no_first_message_does_more_than_fail(data: bytes, plus: bool) -> None:
    scram = Scram("SHA-1", plus=plus, bindings=BINDINGS, plus_advertised=plus)
    try:
        step = scram.start(data)
    except SaslFailure:
        return
    assert isinstance(step, NeedKeys)
    assert step.username


@given(garbage)
def test_no_final_message_does_more_than_fail(data: bytes) -> None:
    scram = Scram("SHA-1", nonce="")
    challenged(scram, b"n,,n=user,r=abc", KEYS["SHA-1"])
    with pytest.raises(SaslFailure):
        scram.respond(data)


@given(st.text(min_size=1, max_size=10).filter(lambda text: "\0" not in text))
def test_names_survive_their_escaping(name: str) -> None:
    sent = name.replace("=", "=3D").replace(",", "=2C")
    try:
        scram = Scram("SHA-1")
        data = f"n,a={sent},n=user,r=abc".encode()
    except UnicodeEncodeError:
        return
    client = Client("SHA-1", header=f"n,a={sent},")
    assert scram.start(data) == NeedKeys("user", "SHA-1")
    scram = Scram("SHA-1")
    step = scram.respond(client.final(challenged(scram, client.first(), KEYS["SHA-1"])))
    assert isinstance(step, Success)
    assert step.authzid == name
