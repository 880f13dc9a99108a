import os
import socket
import time

import pytest

from beamish.net import systemd


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        name = str(tmp_path / "notify") if request.param == "path" else f"\0beamish-test-{os.getpid()}"
        listening.bind(name)
        listening.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name.replace("\0", "@"))
        yield listening


def heard(manager):
    return manager.recv(4096).decode().split("\n")


def test_the_service_manager_hears_what_happens(manager):
    assert systemd.ready("2 domains")
    assert heard(manager) == ["READY=1", "STATUS=2 domains"]
    assert systemd.ready()
    assert heard(manager) == ["READY=1"]
    assert systemd.ready("busy\nSTOPPING=1")
    assert heard(manager) == ["READY=1", "STATUS=busy STOPPING=1"]
    assert systemd.watchdog()
    assert heard(manager) == ["WATCHDOG=1"]
    assert systemd.stopping()
    assert heard(manager) == ["STOPPING=1"]
    assert systemd.extend_timeout(1.5)
    assert heard(manager) == ["EXTEND_TIMEOUT_USEC=1500000"]
    assert systemd.stopping("good night", seconds=60)
    assert heard(manager) == ["STOPPING=1", "STATUS=good night", "EXTEND_TIMEOUT_USEC=60000000"]


def test_a_reload_carries_the_clock(manager):
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert systemd.reloading("in a moment")
    flag, stamp, status = heard(manager)
    assert status == "STATUS=in a moment"
    assert flag == "RELOADING=1"
    name, _, value = stamp.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(value) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


@pytest.mark.parametrize(
    "target", ["/nonexistent/socket", "vsock:2:1234", "relative", "/" + "x" * 200, "@" + "x" * 200]
)
def test_a_manager_that_cannot_be_reached_does_no_harm(target):
    assert systemd.notify("READY=1", environ={"NOTIFY_SOCKET": target}) is False


def test_nobody_listens():
    assert systemd.notify("READY=1", environ={}) is False


def test_a_full_queue_does_not_block(manager):
    for _ in range(10_000):
        if not systemd.watchdog():
            return
    pytest.fail("the queue of the socket never filled")


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_how_often_the_watchdog_wants_a_sign(environ, seconds):
    assert systemd.watchdog_interval(environ) == seconds
