import asyncio
import errno
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamish.net import address
from beamish.net.address import (
    Address,
    BindError,
    bind_all,
    bind_sockets,
    format_peer,
    network_of,
    obstacle,
    parse_address,
    plain_ip,
)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("[::]:5222", "::", 5222),
        ("[2001:db8::1]:1", "2001:db8::1", 1),
        ("[fe80::1%eth0]:5222", "fe80::1%eth0", 5222),
        ("0.0.0.0:0", "0.0.0.0", 0),
        ("localhost:5222", "localhost", 5222),
        ("xmpp.example.org:65535", "xmpp.example.org", 65535),
        ("my_host:1", "my_host", 1),
        ("*:5222", "*", 5222),
    ],
)
def test_addresses_are_read(text, host, port):
    found = parse_address(text)
    assert found == (host, port)
    assert str(found) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "a host and a port"),
        ("5222", "a host and a port"),
        (":5222", "a host and a port"),
        ("localhost", "a host and a port"),
        ("[::1]", "a host and a port"),
        ("::", "a host and a port"),
        ("fe80::dead:beef", "a host and a port"),
        ("localhost:", "port must be a number"),
        ("localhost:http", "port must be a number"),
        ("localhost:65536", "port must be a number"),
        ("localhost:-1", "port must be a number"),
        ("localhost:٣", "port must be a number"),
        ("localhost:" + "1" * 5000, "port must be a number"),
        ("::1:5222", r"needs brackets: \[::1\]:5222"),
        ("[localhost]:5222", "brackets are for IPv6"),
        ("[127.0.0.1]:5222", "brackets are for IPv6"),
        ("256.0.0.1:5222", "not an IPv4 address"),
        ("127.1:5222", "not an IPv4 address"),
        ("a b:5222", "neither an IP address nor a host name"),
        ("a..b:5222", "neither an IP address nor a host name"),
        ("-a:5222", "neither an IP address nor a host name"),
    ],
)
def test_what_is_wrong_with_an_address_is_said(text, words):
    with pytest.raises(ValueError, match=words):
        parse_address(text)


@given(st.text(max_size=60) | st.from_regex(r"[\[\]:.0-9a-f*%]{1,30}:[0-9]{1,6}", fullmatch=True))
def test_any_text_is_an_address_or_a_value_error(text):
    try:
        found = parse_address(text)
    except ValueError:
        return
    assert parse_address(str(found)) == found


@given(st.ip_addresses(), st.integers(0, 65535))
def test_any_ip_address_can_be_written_and_read(ip, port):
    assert parse_address(str(Address(str(ip), port))) == (str(ip), port)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (("192.0.2.1", 5222), "192.0.2.1:5222"),
        (("2001:db8::1", 5222, 0, 0), "[2001:db8::1]:5222"),
        (("::ffff:192.0.2.1", 5222, 0, 0), "192.0.2.1:5222"),
        (("fe80::1%eth0", 5222, 0, 2), "[fe80::1]:5222"),
        ("/run/a.sock", "unix:/run/a.sock"),
        (b"\x00name", "unix:\x00name"),
        ("", "unknown"),
        (None, "unknown"),
    ],
)
def test_peers_are_shown(name, shown):
    assert format_peer(name) == shown


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::FFFF:c000:0201", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("", ""),
        ("not:an:address", "not:an:address"),
        (("192.0.2.1", 5222), "192.0.2.1"),
        (("::ffff:192.0.2.1", 5222, 0, 0), "192.0.2.1"),
        (("2001:db8::1", 5222, 0, 0), "2001:db8::/64"),
        (None, "unknown"),
    ],
)
def test_networks_for_limits(host, network):
    assert network_of(host) == network


@given(st.ip_addresses(v=6), st.integers(0, 2**64 - 1))
def test_one_subscriber_has_one_key(ip, rest):
    sibling = type(ip)((int(ip) >> 64 << 64) | rest)
    if ip.ipv4_mapped is None and sibling.ipv4_mapped is None:
        assert network_of(str(ip)) == network_of(str(sibling))


def close_all(sockets):
    for one in sockets:
        one.close()


def reaches(host, port):
    try:
        with socket.create_connection((host, port), timeout=5):
            return True
    except ConnectionRefusedError:
        return False


@pytest.mark.parametrize("text", ["[::]:0", "*:0"])
def test_every_address_means_both_protocols(text):
    sockets = bind_sockets(text)
    try:
        assert len(sockets) == 1
        port = sockets[0].getsockname()[1]
        assert port > 0
        assert sockets[0].getblocking() is False
        assert reaches("127.0.0.1", port)
        assert reaches("::1", port)
    finally:
        close_all(sockets)


@pytest.mark.parametrize("text", ["[::]:0", "127.0.0.1:0", "localhost:0"])
async def test_nothing_waits_for_acknowledgements_by_the_peers_kernel(text):
    """With Nagle's algorithm the second of two small answers comes 40 ms late."""
    prompt = asyncio.get_running_loop().create_future()

    def accepted(_, writer):
        prompt.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    sockets = bind_sockets(text)
    try:
        async with await asyncio.start_server(accepted, sock=sockets[0]):
            with socket.create_connection(sockets[0].getsockname()[:2]):
                assert await prompt
    finally:
        close_all(sockets)


def test_a_peer_over_ipv4_is_shown_as_such_on_a_dual_stack_socket():
    [listening] = bind_sockets("[::]:0")
    listening.setblocking(True)
    with listening, socket.create_connection(("127.0.0.1", listening.getsockname()[1])):
        accepted, name = listening.accept()
        accepted.close()
    assert format_peer(name).startswith("127.0.0.1:")
    assert plain_ip(name[0]) == "127.0.0.1"


def test_a_host_name_gives_all_its_addresses_on_one_port(monkeypatch):
    answers = [(socket.AF_INET6, 1, 6, "", ("::1", 0, 0, 0)), (socket.AF_INET, 1, 6, "", ("127.0.0.1", 0))]
    monkeypatch.setattr(address.socket, "getaddrinfo", lambda *_, **__: answers)
    sockets = bind_sockets("localhost:0")
    monkeypatch.undo()
    try:
        assert [one.family for one in sockets] == [socket.AF_INET6, socket.AF_INET]
        ports = {one.getsockname()[1] for one in sockets}
        assert len(ports) == 1
        assert reaches("::1", *ports)
        assert reaches("127.0.0.1", *ports)
    finally:
        close_all(sockets)


def without_ipv6(monkeypatch, code):
    real = socket.socket

    class NoIPv6(real):
        def __init__(self, family=-1, *rest, **named):
            if family == socket.AF_INET6 and code == errno.EAFNOSUPPORT:
                raise OSError(code, "Address family not supported by protocol")
            super().__init__(family, *rest, **named)

        def bind(self, name):
            if self.family == socket.AF_INET6:
                raise OSError(code, "Cannot assign requested address")
            super().bind(name)

    monkeypatch.setattr(address.socket, "socket", NoIPv6)


@pytest.mark.parametrize("code", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_a_kernel_without_ipv6(monkeypatch, code):
    answers = [(socket.AF_INET6, 1, 6, "", ("::1", 0, 0, 0)), (socket.AF_INET, 1, 6, "", ("127.0.0.1", 0))]
    monkeypatch.setattr(address.socket, "getaddrinfo", lambda *_, **__: answers)
    without_ipv6(monkeypatch, code)
    every, name = bind_sockets("[::]:0"), bind_sockets("localhost:0")
    monkeypatch.undo()
    try:
        assert [one.family for one in every + name] == [socket.AF_INET, socket.AF_INET]
        assert reaches("127.0.0.1", every[0].getsockname()[1])
    finally:
        close_all(every + name)


def test_an_address_in_use():
    with bind_sockets("127.0.0.1:0")[0] as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BindError, match=rf"cannot listen on 127\.0\.0\.1:{port}: already in use") as caught:
            bind_sockets(f"127.0.0.1:{port}")
        assert caught.value.errno == errno.EADDRINUSE


def test_a_port_is_free_again_at_once():
    [first] = bind_sockets("127.0.0.1:0")
    first.setblocking(True)
    port = first.getsockname()[1]
    with first, socket.create_connection(("127.0.0.1", port)) as client:
        accepted, _ = first.accept()
        accepted.close()  # the server closes first, so its side stays in TIME_WAIT
        assert client.recv(1) == b""
    close_all(bind_sockets(f"127.0.0.1:{port}"))


def test_an_address_of_another_machine():
    with pytest.raises(BindError, match=r"192\.0\.2\.1:0: this machine has no such address"):
        bind_sockets("192.0.2.1:0")


def test_an_unknown_name(monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(address.socket, "getaddrinfo", unknown)
    with pytest.raises(BindError, match=r"nowhere\.invalid is unknown"):
        bind_sockets("nowhere.invalid:5222")


def test_a_privileged_port(monkeypatch):
    def refuse(_self, _name):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(address.socket, "socket", type("Refusing", (socket.socket,), {"bind": refuse}))
    with pytest.raises(BindError, match="ports below 1024 need CAP_NET_BIND_SERVICE"):
        bind_sockets("127.0.0.1:443")


def test_both_protocols_listed_apart():
    with bind_sockets("127.0.0.1:0")[0] as probe:
        port = probe.getsockname()[1]
    sockets = bind_all([f"[::]:{port}", f"0.0.0.0:{port}", f"[::]:{port}"])
    try:
        assert [one.family for one in sockets] == [socket.AF_INET6, socket.AF_INET]
        assert reaches("127.0.0.1", port)
        assert reaches("::1", port)
    finally:
        close_all(sockets)


def test_all_or_none():
    with bind_sockets("127.0.0.1:0")[0] as probe:
        free = probe.getsockname()[1]
    with bind_sockets("127.0.0.1:0")[0] as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BindError):
            bind_all([f"127.0.0.1:{free}", f"127.0.0.1:{port}"])
    assert not reaches("127.0.0.1", free)


def test_an_address_is_tried_without_being_in_anybodys_way():
    with bind_sockets("127.0.0.1:0")[0] as taken:
        port = taken.getsockname()[1]
        words = f"cannot listen on 127.0.0.1:{port}: already in use; is another server running?"
        assert obstacle(f"127.0.0.1:{port}") == words
        assert "already in use" in obstacle(f"*:{port}")
        assert "already in use" in obstacle(f"localhost:{port}")
    assert obstacle(f"127.0.0.1:{port}") == ""
    with bind_sockets(f"127.0.0.1:{port}")[0]:
        pass
    assert obstacle("192.0.2.1:5222") == "cannot listen on 192.0.2.1:5222: this machine has no such address"
    assert "nowhere.invalid is unknown" in obstacle("nowhere.invalid:5222")
