import asyncio
import json
import os
import socket
import stat
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from beamish.net import control
from beamish.net.control import REQUEST_BYTES, ControlError, ControlServer, ControlUnavailable, call


async def answer(command, args):
    match command:
        case "echo":
            return args
        case "refuse":
            raise ControlError("no such account: romeo@example.org")
        case "invalid":
            raise ValueError("not a JID")
        case "crash":
            raise KeyError("secret detail")
        case "slow network":
            raise TimeoutError("somewhere else")
        case "no json":
            return object()
    raise ControlError(f"there is no command {command!r}")


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "control.sock"


async def raw(path, *lines: bytes) -> list[dict]:
    """Send lines on one connection; what the server answered until it or we hung up."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(b"".join(lines))
    if all(line.endswith(b"\n") for line in lines):
        writer.write_eof()
    answers = [json.loads(line) async for line in reader]
    writer.close()
    return answers


def test_commands_are_answered(path, run):
    async def scenario():
        async with ControlServer(path, answer):
            args = {"jid": "romeo@example.org", "note": "ünïcode 😀 \n \udc80"}
            assert await call(path, "echo", args) == args
            assert await call(path, "echo", {}) == {}
            for command, text in [
                ("refuse", "no such account: romeo@example.org"),
                ("invalid", "not a JID"),
                ("nonsense", "there is no command 'nonsense'"),
            ]:
                with pytest.raises(ControlError, match=text):
                    await call(path, command, {})

    run(scenario())


@pytest.mark.parametrize("command", ["crash", "slow network", "no json"])
def test_a_failing_command_is_logged_without_its_arguments(path, run, command):
    async def scenario():
        async with ControlServer(path, answer):
            with capture_logs() as logs, pytest.raises(ControlError, match="failed inside the server") as caught:
                await call(path, command, {"password": "hunter2"})
        assert "secret detail" not in str(caught.value)
        [event] = logs
        assert (event["event"], event["command"]) == ("control_command_failed", command)
        assert "hunter2" not in repr(event)

    run(scenario())


def test_several_requests_on_one_connection(path, run):
    async def scenario():
        async with ControlServer(path, answer):
            lines = [json.dumps({"command": "echo", "args": {"n": n}}).encode() + b"\n" for n in range(3)]
            assert await raw(path, *lines) == [{"ok": {"n": n}} for n in range(3)]

    run(scenario())


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"\n", "not JSON"),
        (b"\xff\xfe\n", "not JSON"),
        (b"[" * 100_000 + b"\n", "not JSON"),
        (b"[]\n", "a request is"),
        (b'{"command": 1}\n', "a request is"),
        (b'{"command": "echo", "args": []}\n', '"args" must be an object'),
    ],
)
def test_what_is_no_request(path, run, line, text):
    async def scenario():
        async with ControlServer(path, answer):
            good = b'{"command": "echo"}\n'
            first, second = await raw(path, line, good)
            assert text in first["error"]
            assert second == {"ok": {}}

    run(scenario())


def test_requests_are_bounded(path, run):
    async def scenario():
        async with ControlServer(path, answer):
            [refused] = await raw(path, b"x" * (REQUEST_BYTES + 100_000))
            assert "1048576 bytes at most" in refused["error"]
            with pytest.raises(ControlError, match="1048576 bytes at most"):
                await call(path, "echo", {"text": "x" * REQUEST_BYTES})
            text = "x" * (REQUEST_BYTES - 100)
            assert await call(path, "echo", {"text": text}) == {"text": text}

    run(scenario())


def test_connections_are_bounded(path, run):
    async def scenario():
        async with ControlServer(path, answer, clients=2):
            held = [await asyncio.open_unix_connection(str(path)) for _ in range(2)]
            for reader, writer in held:
                writer.write(b'{"command": "echo"}\n')
                assert await reader.readline()
            with pytest.raises(ControlError, match="too many control connections"):
                await call(path, "echo", {})
            held[0][1].close()
            await held[0][1].wait_closed()
            while True:  # the server learns of it in its own time
                try:
                    assert await call(path, "echo", {}) == {}
                    break
                except ControlError:
                    continue
            held[1][1].close()

    run(scenario())


def test_silent_clients_are_cut(path, run):
    async def scenario():
        async with ControlServer(path, answer, idle_seconds=0.05):
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(b'{"command": ')
            assert await reader.read() == b""
            writer.close()

    run(scenario())


def test_commands_are_stopped_after_their_time(path, run):
    async def scenario():
        stopped = asyncio.Event()

        async def hang(_command, _args):
            try:
                await asyncio.Event().wait()
            finally:
                stopped.set()

        async with ControlServer(path, hang, command_seconds=0.05):
            with pytest.raises(ControlError, match=r"took longer than 0\.05 seconds and was stopped"):
                await call(path, "hang", {})
            assert stopped.is_set()
        server = ControlServer(path, hang)
        await server.start()
        with pytest.raises(ControlError, match=r"did not answer within 0\.05 seconds"):
            await call(path, "hang", {}, timeout=0.05)
        await server.close(grace=0)

    run(scenario())


def test_closing_lets_commands_finish(path, run):
    async def scenario():
        begun, go = asyncio.Event(), asyncio.Event()

        async def wait(_command, _args):
            begun.set()
            await go.wait()
            return "done"

        server = ControlServer(path, wait)
        await server.start()
        idle_reader, idle_writer = await asyncio.open_unix_connection(str(path))
        calling = asyncio.create_task(call(path, "wait", {}))
        await begun.wait()
        closing = asyncio.create_task(server.close())
        assert await idle_reader.read() == b""
        assert not path.exists()
        with pytest.raises(ControlUnavailable):
            await call(path, "wait", {})
        go.set()
        assert await calling == "done"
        await closing
        idle_writer.close()

    run(scenario())


def test_closing_cuts_what_does_not_finish(path, run):
    async def scenario():
        begun = asyncio.Event()

        async def hang(_command, _args):
            begun.set()
            await asyncio.Event().wait()

        server = ControlServer(path, hang)
        await server.start()
        calling = asyncio.create_task(call(path, "hang", {}))
        await begun.wait()
        await server.close(grace=0.01)
        with pytest.raises(ControlError, match="hung up"):
            await calling
        await server.close()

    run(scenario())


def test_nobody_listens(path, run):
    with pytest.raises(ControlUnavailable, match=str(path)):
        run(call(path, "echo", {}))


def leave_stale(path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))


def test_the_socket_of_a_killed_server_is_replaced(path, run):
    leave_stale(path)

    async def scenario():
        with pytest.raises(ControlUnavailable):
            await call(path, "echo", {})
        async with ControlServer(path, answer):
            assert await call(path, "echo", {}) == {}
        assert not path.exists()

    run(scenario())


def test_a_second_server_is_refused(path, run):
    async def scenario():
        async with ControlServer(path, answer):
            with pytest.raises(ControlError, match="another server already listens"):
                await ControlServer(path, answer).start()
            assert await call(path, "echo", {}) == {}

    run(scenario())


def test_a_file_in_the_way_is_not_removed(path, run):
    path.write_text("precious")
    with pytest.raises(ControlError, match="not a socket"):
        run(ControlServer(path, answer).start())
    assert path.read_text() == "precious"


def test_the_socket_of_a_successor_is_not_removed(path, run):
    async def scenario():
        first, second = ControlServer(path, answer), ControlServer(path, answer)
        await first.start()
        path.rename(path.with_name("moved"))
        await second.start()
        await first.close()
        assert await call(path, "echo", {}) == {}
        await second.close()

    run(scenario())


def test_a_path_too_long_for_a_socket_address(tmp_path, run):
    folder = tmp_path / ("long-" * 20) / ("name-" * 20)
    folder.mkdir(parents=True)
    path = folder / "control.sock"

    async def scenario():
        leave = os.open(folder, os.O_PATH)
        leave_stale(f"/proc/self/fd/{leave}/control.sock")
        os.close(leave)
        before = len(os.listdir("/proc/self/fd"))
        async with ControlServer(path, answer):
            assert stat.S_ISSOCK(path.stat().st_mode)
            assert await call(path, "echo", {"n": 1}) == {"n": 1}
            with pytest.raises(ControlError, match="already listens"):
                await ControlServer(path, answer).start()
        assert not path.exists()
        with pytest.raises(ControlUnavailable):
            await call(path, "echo", {})
        return before

    run(scenario())


def test_only_the_owner_may_open_it(path, run):
    async def scenario():
        previous = os.umask(0)
        try:
            async with ControlServer(path, answer):
                assert stat.S_IMODE(path.stat().st_mode) == 0o600
        finally:
            os.umask(previous)

    run(scenario())


def test_other_users_are_refused(path, run, monkeypatch):
    async def scenario():
        async with ControlServer(path, answer):
            monkeypatch.setattr(control, "_peer_uid", lambda _connection: 12345)
            with capture_logs() as logs, pytest.raises(ControlError, match="only the user that runs the server"):
                await call(path, "echo", {})
            assert logs == [{"event": "control_refused", "uid": 12345, "log_level": "warning"}]

    run(scenario())


def test_the_kernel_says_who_calls():
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        assert control._peer_uid(one) == os.geteuid()
