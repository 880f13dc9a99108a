"""The control socket: how `beamish user …` and its kin reach a running server.

A Unix socket in data_dir, one JSON object per line: `{"command": "user.add", "args": {…}}` is answered by
`{"ok": result}` or `{"error": "text"}`; several may follow one another on a connection. Only the server's own user and
root may speak: the socket's mode says so, and the kernel's word for who is calling (SO_PEERCRED) is checked as well.
"""

import asyncio
import errno
import json
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import structlog

log = structlog.get_logger(__name__)

Run = Callable[[str, dict[str, Any]], Awaitable[Any]]

REQUEST_BYTES: Final = 1 << 20
"""Largest request, in bytes."""
ANSWER_BYTES: Final = 64 << 20
"""Largest answer, in bytes: a list of some hundred thousand accounts."""

_CLIENTS: Final = 16
_IDLE_SECONDS: Final = 60.0
_COMMAND_SECONDS: Final = 600.0
_PATH_BYTES: Final = 107  # sun_path of unix(7), without the final zero
_UCRED: Final = struct.Struct("3i")


class ControlError(Exception):
    """A command was refused or failed; the text is for the person who gave it."""


class ControlUnavailable(ControlError):
    """No server listens on this socket (or not one that may be spoken to)."""


class ControlServer:
    """Listens on the control socket and hands each command to `run(name, args)`.

    What `run` returns must be JSON; a `ControlError` or `ValueError` it raises becomes the error's text, anything else
    is logged and answered without detail. Bounds: 1 MiB a request, `clients` connections at once, `idle_seconds`
    between requests, `command_seconds` for one command (it is cancelled after that).
    """

    def __init__(
        self,
        path: Path,
        run: Run,
        *,
        clients: int = _CLIENTS,
        idle_seconds: float = _IDLE_SECONDS,
        command_seconds: float = _COMMAND_SECONDS,
    ) -> None:
        self.path = path
        self._run = run
        self._clients = clients
        self._idle_seconds = idle_seconds
        self._command_seconds = command_seconds
        self._server: asyncio.Server | None = None
        self._opened = ExitStack()
        self._identity: tuple[int, int] | None = None
        self._serving: set[asyncio.Task[Any]] = set()
        self._waiting: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Open the socket. Raises `ControlError` if a server already listens there, `OSError` if it cannot be made."""
        with ExitStack() as opened:
            # The name is kept good until the end: newer asyncio removes the socket by it when the server is closed.
            name = opened.enter_context(_short(self.path))
            listening = _bind(self.path, name)
            opened.callback(listening.close)
            found = os.stat(self.path)
            self._identity = (found.st_dev, found.st_ino)
            self._server = await asyncio.start_unix_server(self._serve, sock=listening, limit=REQUEST_BYTES)
            self._opened = opened.pop_all()

    async def close(self, grace: float = 5.0) -> None:
        """Stop accepting, remove the socket, let commands in progress finish for `grace` seconds, cut the rest."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        with suppress(OSError):
            found = os.stat(self.path, follow_symlinks=False)
            if (found.st_dev, found.st_ino) == self._identity:  # not the one of a server that replaced us
                self.path.unlink()
        for task in self._waiting:
            task.cancel()
        if self._serving:
            await asyncio.wait(self._serving, timeout=grace)
        for task in self._serving:
            task.cancel()
        if self._serving:
            await asyncio.wait(self._serving)
        self._opened.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            await self._converse(task, reader, writer)
        except (ConnectionError, TimeoutError):
            pass
        except asyncio.CancelledError:
            # Only close() cancels; the task that the streams module made for us has nobody else who would care.
            pass
        except Exception:
            log.exception("control_connection_failed")
        finally:
            self._serving.discard(task)
            self._waiting.discard(task)
            writer.close()

    async def _converse(
        self, task: asyncio.Task[Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        user = _peer_uid(writer.get_extra_info("socket"))
        if user not in (0, os.geteuid()):
            log.warning("control_refused", uid=user)
            return await self._answer(writer, _error("only the user that runs the server, or root, may do this"))
        if len(self._serving) > self._clients:
            return await self._answer(writer, _error("too many control connections; try again later"))
        while self._server is not None:
            self._waiting.add(task)
            try:
                async with asyncio.timeout(self._idle_seconds):
                    line = await reader.readuntil(b"\n")
            except asyncio.IncompleteReadError:
                return None
            except asyncio.LimitOverrunError:
                await self._answer(writer, _error(f"a request may have {REQUEST_BYTES} bytes at most"))
                writer.write_eof()
                async with asyncio.timeout(self._idle_seconds):
                    while await reader.read(65_536):  # closing with bytes unread would take the answer away again
                        pass
                return None
            finally:
                self._waiting.discard(task)
            await self._answer(writer, await self._perform(line))
        return None

    async def _perform(self, line: bytes) -> bytes:
        """Run one request; the answer's line."""
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            return _error("the request is not JSON")
        if not isinstance(request, dict) or not isinstance(request.get("command"), str):
            return _error('a request is {"command": name, "args": {…}}')
        command, args = request["command"], request.get("args", {})
        if not isinstance(args, dict):
            return _error('"args" must be an object')
        try:
            async with asyncio.timeout(self._command_seconds) as limit:
                result = await self._run(command, args)
            return _line({"ok": result})
        except (ControlError, ValueError) as error:
            return _error(str(error) or type(error).__name__)
        except TimeoutError as error:
            if limit.expired():
                return _error(f"{command} took longer than {self._command_seconds:g} seconds and was stopped")
            return self._failed(command, error)
        except Exception as error:
            return self._failed(command, error)

    def _failed(self, command: str, error: Exception) -> bytes:
        log.error("control_command_failed", command=command, exc_info=error)  # never the arguments: passwords
        return _error(f"{command} failed inside the server ({type(error).__name__}); its log has more")

    async def _answer(self, writer: asyncio.StreamWriter, answer: bytes) -> None:
        writer.write(answer)
        async with asyncio.timeout(self._idle_seconds):
            await writer.drain()


async def call(path: Path, command: str, args: dict[str, Any], *, timeout: float = _COMMAND_SECONDS) -> Any:
    """Have the server behind `path` run one command and return its result.

    Raises `ControlUnavailable` if none listens there, `ControlError` with the server's text if it says no, or if it
    does not answer within `timeout` seconds.
    """
    request = json.dumps({"command": command, "args": args}).encode() + b"\n"
    if len(request) > REQUEST_BYTES:
        raise ControlError(f"a request may have {REQUEST_BYTES} bytes at most")
    try:
        async with asyncio.timeout(timeout):
            with _short(path) as name:
                reader, writer = await asyncio.open_unix_connection(name, limit=ANSWER_BYTES)
            try:
                writer.write(request)
                line = await reader.readuntil(b"\n")
            finally:
                writer.close()
    except TimeoutError:
        raise ControlError(f"the server did not answer within {timeout:g} seconds") from None
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        raise ControlUnavailable(f"no server listens on {path}") from None
    except PermissionError:
        raise ControlUnavailable(f"{path} belongs to another user: run this as that user or as root") from None
    except asyncio.LimitOverrunError:
        raise ControlError("the server's answer is too long") from None
    except (asyncio.IncompleteReadError, OSError) as error:
        raise ControlError(f"the server hung up before it answered ({type(error).__name__})") from None
    answer = json.loads(line)
    if "error" in answer:
        raise ControlError(answer["error"])
    return answer.get("ok")


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode("ascii") + b"\n"


def _error(text: str) -> bytes:
    return _line({"error": text})


def _bind(path: Path, name: str) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.setblocking(False)
        os.fchmod(listening.fileno(), 0o600)  # before bind: the file never exists with a wider mode
        try:
            listening.bind(name)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            _remove_stale(path, name)
            listening.bind(name)
        listening.listen(_CLIENTS)
    except BaseException:
        listening.close()
        raise
    return listening


def _remove_stale(path: Path, name: str) -> None:
    """Remove the socket that a killed server left behind; raises `ControlError` if one still answers."""
    if not stat.S_ISSOCK(os.stat(path, follow_symlinks=False).st_mode):
        raise ControlError(f"{path} exists and is not a socket; move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(name)
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass  # its queue is full, so it lives
    raise ControlError(f"another server already listens on {path}")


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """A name for `path` that fits a socket address: if need be, through a descriptor of its directory."""
    if len(os.fsencode(path)) <= _PATH_BYTES:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _peer_uid(connection: Any) -> int:
    """Who is at the other end, by the kernel's word: unix(7), SO_PEERCRED."""
    _, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return int(uid)
