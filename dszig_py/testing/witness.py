"""What hostile code could do harm to, and how harm is noticed, from the host's side."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dszig_py.environments.base import Execution
from dszig_py.testing.host import RecordingHost

__all__ = ["BREACH", "SECRET", "SECRET_NAME", "Snippet", "Witness", "a_witness", "bounded", "kept", "no_submission"]

BREACH = "BREACH"
SECRET_NAME, SECRET = "DSZIG_TEST_CANARY_KEY", secrets.token_hex(8)


@dataclass(slots=True)
class Witness:
    """What a cell could do harm to, on the host's side; ``heard`` is what reached a listener."""

    folder: Path
    secret: str
    victim: subprocess.Popen[bytes]
    ports: dict[str, Any] = field(default_factory=dict[str, Any])
    heard: list[str] = field(default_factory=list[str])
    host: RecordingHost = field(default_factory=RecordingHost)

    @property
    def canary(self) -> Path:
        return self.folder / "canary"

    @property
    def inputs(self) -> dict[str, Any]:
        """What the code is told, so that it does not have to search."""
        return {
            "canary": str(self.canary),
            "folder": str(self.folder),
            "host_pid": os.getpid(),
            "victim_pid": self.victim.pid,
            "secret_name": SECRET_NAME,
            **self.ports,
        }

    def harm(self, execution: Execution | None) -> str:
        """What no snippet at all may do."""
        said = "" if execution is None else f"{execution.stdout}\n{execution.value}\n{execution.error}"
        if self.secret in said:
            return "a secret of the host was read"
        if BREACH in said:
            return said[said.index(BREACH) :].partition("\n")[0]
        if sorted(p.name for p in self.folder.iterdir()) != sorted(["canary", *self.ports["files"]]):
            return f"files were made or removed: {sorted(os.listdir(self.folder))}"
        if self.canary.read_text() != self.secret or self.canary.stat().st_mode & 0o777 != 0o644:
            return "the canary file was changed"
        if self.heard:
            return f"a listener heard {self.heard[0]}"
        if self.victim.poll() is not None:
            return f"a process was ended: {self.victim.poll()}"
        return ""


Judge = Callable[[Execution | None, Witness], str]


def nothing_more(_execution: Execution | None, _witness: Witness) -> str:
    """What :meth:`Witness.harm` looks for is all."""
    return ""


def no_submission(execution: Execution | None, witness: Witness) -> str:
    """Nothing may count as submitted that the host did not judge."""
    if execution is not None and execution.submission is not None and not witness.host.submissions:
        return f"a forged submission was taken: {execution.submission!r:.200}"
    return ""


def kept(execution: Execution | None, _witness: Witness) -> str:
    """The session must live through it."""
    if execution is None:
        return "the session failed"
    return f"the session was lost: {execution.lost}" if execution.lost else ""


def bounded(execution: Execution | None, _witness: Witness) -> str:
    """What comes back must be short, whatever was sent."""
    if execution is None:
        return "the session failed"
    size = len(execution.stdout) + len(execution.value or "") + len(execution.error) + len(execution.lost)
    return f"{size:,} characters came back" if size > 100_000 else ""


@dataclass(frozen=True, slots=True)
class Snippet:
    """One hostile cell: ``harm`` says what it did that must not happen, ``""`` for nothing.

    ``seconds``: of the cell. ``spoils``: it may leave its session unusable; a new one must work all the same.
    """

    category: str
    name: str
    code: str
    harm: Judge = nothing_more
    seconds: float = 10.0
    spoils: bool = False

    def __str__(self) -> str:
        return f"{self.category}: {self.name}"


@contextlib.asynccontextmanager
async def a_witness() -> AsyncGenerator[Witness, None]:
    """A witness with everything it needs, gone afterwards."""
    witness = _make()
    try:
        async with contextlib.AsyncExitStack() as stack:
            _listen(witness, stack)
            yield witness
    finally:
        _remove(witness)


def _make() -> Witness:
    folder = Path(tempfile.mkdtemp(prefix="hostile"))
    folder.chmod(0o777)  # as permissive as it gets: the boundary, and not the owner, has to protect it
    waiting = [sys.executable, "-I", "-S", "-c", "import sys; sys.stdin.read()"]
    witness = Witness(folder, SECRET, subprocess.Popen(waiting, stdin=subprocess.PIPE))  # noqa: S603 - ours
    witness.canary.write_text(witness.secret)
    witness.canary.chmod(0o644)
    return witness


def _remove(witness: Witness) -> None:
    victim = witness.victim
    victim.kill()
    assert victim.stdin is not None
    victim.stdin.close()
    victim.wait()
    shutil.rmtree(witness.folder, ignore_errors=True)


def _listen(witness: Witness, stack: contextlib.AsyncExitStack) -> None:
    """Listeners of every kind a cell might reach, each of which writes down what arrives."""
    loop = asyncio.get_running_loop()
    files = ["stream.sock", "datagram.sock"]
    abstract = f"\0dszig-{secrets.token_hex(4)}"
    kinds: dict[str, tuple[int, int, Any]] = {
        "tcp_port": (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
        "udp_port": (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
        "stream_path": (socket.AF_UNIX, socket.SOCK_STREAM, str(witness.folder / files[0])),
        "datagram_path": (socket.AF_UNIX, socket.SOCK_DGRAM, str(witness.folder / files[1])),
        "abstract": (socket.AF_UNIX, socket.SOCK_DGRAM, abstract),
    }
    for name, (family, kind, address) in kinds.items():
        listener = stack.enter_context(socket.socket(family, kind))
        listener.setblocking(False)
        listener.bind(address)
        if kind == socket.SOCK_STREAM:
            listener.listen()
        witness.ports[name] = listener.getsockname()[1] if family == socket.AF_INET else address
        loop.add_reader(listener, _note, witness, name, listener)
        stack.callback(loop.remove_reader, listener)
    witness.ports["files"] = files


def _note(witness: Witness, name: str, listener: socket.socket) -> None:
    witness.heard.append(name)
    with contextlib.suppress(OSError):
        if listener.type == socket.SOCK_STREAM:
            listener.accept()[0].close()
        else:
            listener.recv(1024)
