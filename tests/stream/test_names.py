"""The bound of libxml2's dictionary: its arithmetic, and the proof in resident memory."""

import subprocess
import sys
import textwrap

from beamish.stream.names import NameLedger


def test_an_account_has_so_many_names_an_hour() -> None:
    ledger = NameLedger(per_account=3)
    assert [ledger.charge(f"a{n}", "me") for n in range(5)] == [True, True, True, False, False]
    assert ledger.exhausted("me")
    assert not ledger.exhausted("you")
    assert ledger.charge("b", "you")
    ledger.new_hour()
    assert not ledger.exhausted("me")
    assert ledger.charge("c", "me")


def test_all_kinds_count_together() -> None:
    ledger = NameLedger(per_account=3)
    assert ledger.charge("a", "me")
    assert ledger.charge_space("urn:x", "me")
    ledger.lose(2, "me")
    assert not ledger.charge("b", "me")
    assert "b" not in ledger.known


def test_the_process_has_an_end_too() -> None:
    ledger = NameLedger()
    room = 10
    ledger = NameLedger(total=len(ledger.known) + len(ledger.spaces) + room)
    taken = sum(ledger.charge(f"a{n}", n) for n in range(20))
    assert taken == room
    ledger = NameLedger(total=len(NameLedger().known) + len(ledger.spaces) + room)
    ledger.lose(room, "me")
    assert not ledger.charge("a", "you")


def test_strangers_whose_input_is_not_filtered_share_a_fixed_number() -> None:
    ledger = NameLedger(unauthenticated=2)
    assert [ledger.charge(f"a{n}", None) for n in range(3)] == [True, True, False]
    ledger.new_hour()
    assert not ledger.charge("b", None)


def test_what_is_learnt_costs_nobody() -> None:
    ledger = NameLedger(per_account=0)
    ledger.learn(["{urn:x}a"])
    assert "{urn:x}a" in ledger.known
    assert not ledger.exhausted("me")


FLOOD = """
    import sys
    from beamish.stream.machine import C2SMachine, C2SSettings
    from beamish.stream.names import NameLedger

    def resident():
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * 4096

    ledger = NameLedger()
    settings = C2SSettings(lambda domain: True, lambda: "id", ledger, "a.b", require_tls=False)
    HEADER = ("<stream:stream to='a.b' version='1.0' xmlns='jabber:client' "
              "xmlns:stream='http://etherx.jabber.org/streams'>")

    def connection(number):
        machine = C2SMachine(settings)
        attack = "".join(
            f"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='x' n{number}x{n}='' "
            f"xmlns:p{number}x{n}='urn:{number}:{n}'>"
            f"<e{number}x{n}>{''.join(' 	'[number * 4 + n >> bit & 1] for bit in range(30))}</e{number}x{n}></auth>"
            for n in range(4)
        )
        events = machine.receive((HEADER + attack + f"<z{number}").encode())
        assert machine.data_to_send()

    for number in range(300):
        connection(number)
    before = resident()
    for number in range(1_000_000, 1_000_000 + int(sys.argv[1])):
        connection(number)
    print(resident() - before)
"""


def test_strangers_do_not_grow_the_process() -> None:
    """20,000 names of each kind would cost about 6 MB if libxml2 saw them."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FLOOD), "5000"], capture_output=True, text=True, timeout=100, check=True
    )
    assert int(done.stdout) < 2_000_000
