"""A worker in a container of docker's or podman's: no network, a read-only image, no capabilities, bounded in memory
and processes. It takes up to a second to start, and works where this kernel can hold no worker.

The protocol is the same, over the standard input and output of ``docker run``. What the container gets of this machine
is one read-only folder with the worker's program and the inputs, removed as soon as they are read; and inputs that are files
or folders, mounted read-only where they are, never copied.

An engine mounts by path, not by descriptor. So the path is asked of the descriptor that was judged, just before; and the
worker compares device and inode of what it finds with what was judged, before any code runs, and does not start where they
differ. What is left to somebody who can rename things in the path's folders is to have the start fail, and, for the moment it
takes, another file mounted that nothing reads. A folder's mounts of its own are refused: engines differ in whether these
become read-only. (Considered: ``/proc/PID/fd/N`` as the source, which no name can change; it needs the engine in our process
and user namespaces.)
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import anyio

from dszig_py.environments import inputs
from dszig_py.environments._link import Link
from dszig_py.environments._opening import off_loop, packed_inputs, size_in_bytes, started
from dszig_py.environments.base import CellLimits, Host, Isolation
from dszig_py.environments.session import WorkerSession
from dszig_py.errors import EnvironmentFailure, InputError
from dszig_py.mounts import whereabouts

if TYPE_CHECKING:
    from dszig_py.contract import Contract

__all__ = ["DockerEnvironment"]

ENGINES = ("docker", "podman")
_WORKER = Path(__file__).with_name("_worker")
_SHARED, _INPUTS = "/run/dszig", "/inputs"
_TMP = "64m"
_TMPFS = f"/tmp:size={_TMP},noexec,nosuid,nodev"  # noqa: S108 - in there
_NOBODY = "65534:65534"
_PROBE_SECONDS = 20.0
_END_SECONDS = 10.0
_CHUNK = 1 << 24
_SELINUX = "/sys/fs/selinux/enforce"
_ENVIRON = {"MALLOC_ARENA_MAX": "2", "PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "HOME": "/tmp"}  # noqa: S108 - in there

_NOT_COVERED = (
    "bugs of the kernel and of the container engine, and side channels of the processor",
    "what lies in the image can be read",
    "what the code puts into a prompt leaves this machine: sub-calls are a channel by design",
)
_running: dict[str, str] = {}  # what was asked for -> the engine that answered


@dataclass(frozen=True, slots=True)
class DockerEnvironment:
    """Cells run in a container, one a session. ``image`` has Python 3.11 or later as ``python3``, and whatever packages
    the code may import (pydantic, for typed calls with classes of its own); pin it by digest where that matters.

    ``engine``: "docker", "podman", or "auto", the one that runs. ``memory``: of one container, inputs included; bytes or
    text like "2g". ``pids``: processes and threads. ``cpus``: processors it may use. ``runtime``: another OCI runtime,
    like "runsc". ``cell_seconds``: a cell's own time, waiting for host calls not counted.

    Inputs that are files and folders are mounted at ``/inputs/NAME``. The code reads them as nobody: they must be readable to
    all, and carry a label that lets containers read them where SELinux is on (nothing here relabels files of the caller's).
    """

    image: str = "python:3.12-slim"
    engine: str = "auto"
    memory: int | str = "2g"
    pids: int = 128
    cpus: float = 1.0
    runtime: str | None = None
    cell_seconds: float = 30.0
    max_frame: int = 64 * 1024 * 1024
    name: str = field(default="docker", init=False)

    def __post_init__(self) -> None:
        if self.engine not in ("auto", *ENGINES):
            raise InputError(f"engine={self.engine!r}: it is 'auto', 'docker' or 'podman'")
        size_in_bytes(self.memory)

    async def open(self, contract: Contract, host: Host, limits: CellLimits) -> DockerSession:
        """Start a container with the inputs. Raises :class:`InputError`, :class:`EnvironmentFailure`."""
        engine = await off_loop(self.find_engine)
        packed = await packed_inputs(contract)
        return await started(DockerSession(self, engine, packed, host, limits))

    def find_engine(self) -> str:
        """The engine that runs here. Raises :class:`EnvironmentFailure` saying what each of them answered."""
        if self.engine in _running:
            return _running[self.engine]
        told: list[str] = []
        for engine in ENGINES if self.engine == "auto" else (self.engine,):
            failure = _probe(engine)
            if not failure:
                _running[self.engine] = engine
                return engine
            told.append(f"{engine}: {failure}")
        raise EnvironmentFailure(f"no container engine runs here ({'; '.join(told)})")

    def command(
        self, engine: str, name: str, folder: str, request: dict[str, Any], mounts: Mapping[str, str] | None = None
    ) -> list[str]:
        """The whole command that runs a worker: ``folder``, and inputs by name in ``mounts``, are what it gets to see of this
        machine.
        """
        mounted = [f"type=bind,src={path},dst={_INPUTS}/{one},readonly" for one, path in (mounts or {}).items()]
        size = str(size_in_bytes(self.memory))
        runtime = [] if self.runtime is None else ["--runtime", self.runtime]
        environ = [part for key, value in _ENVIRON.items() for part in ("--env", f"{key}={value}")]
        labelled = ",Z" if os.path.exists(_SELINUX) else ""  # else SELinux keeps the container from reading it
        return [
            *([engine, *runtime, "run"] if engine == "podman" else [engine, "run", *runtime]),
            *("--rm", "--interactive", "--name", name, "--log-driver", "none"),
            *("--network", "none", "--ipc", "none", "--read-only", "--tmpfs", _TMPFS),
            *(["--read-only-tmpfs=false"] if engine == "podman" else []),  # it else makes /run and /var/tmp writable
            *("--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--user", _NOBODY),
            *("--pids-limit", str(self.pids), "--memory", size, "--memory-swap", size, "--cpus", f"{self.cpus:g}"),
            *("--ulimit", "nofile=256:256", "--ulimit", "core=0:0", *_processes_limit()),
            *("--volume", f"{folder}:{_SHARED}:ro{labelled}", "--workdir", "/tmp", *environ),  # noqa: S108 - in there
            *(part for mount in mounted for part in ("--mount", mount)),
            *("--entrypoint", "python3", self.image),
            *("-s", "-P", "-B", f"{_SHARED}/worker/standalone.py", json.dumps(request)),
        ]

    def isolation(self, engine: str) -> Isolation:
        """What holds around a container."""
        covered = (
            f"files: the code can read the image {self.image} and its inputs, and write {_TMP} to a /tmp of its own",
            "network: there is none",
            f"processes: at most {self.pids} with all threads, as nobody, without capabilities and new privileges",
            "secrets: the environment of the image, and no files, memory or descriptors of the host",
            f"limits: {self.memory} of memory, {self.cpus:g} processors, output and open files",
            f"kernel: the system calls that {engine}{f' with {self.runtime}' if self.runtime else ''} lets through",
        )
        return Isolation("container", covered, _NOT_COVERED)


def _probe(engine: str) -> str:
    """Why an engine cannot be used; empty where it can. ``docker version`` asks the daemon, and podman has none."""
    asked = [engine, "version", "--format", "{{.Server.Version}}"] if engine == "docker" else [engine, "info"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False)  # noqa: S603
    except FileNotFoundError:
        return "not installed"
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if done.returncode == 0 else f"does not run: {(done.stderr or done.stdout).strip()[-300:]}"


def _processes_limit() -> tuple[str, ...]:
    """Of the user in the container, in all of them. Podman else asks for a default that is more than it may have itself
    where this user, root included, is limited; ``--pids-limit`` is what bounds one container.
    """
    if sys.platform == "win32":
        return ()
    import resource

    most = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    return () if most == resource.RLIM_INFINITY else ("--ulimit", f"nproc={min(most, 1 << 14)}")


@dataclass(eq=False)
class _Container:
    """One container: its name, the ``docker run`` that holds it, what that says, and the folder shared with it."""

    engine: str
    name: str
    folder: str
    said: IO[bytes]
    process: subprocess.Popen[bytes]
    helpers: list[threading.Thread] = field(default_factory=list[threading.Thread])

    def signal(self, number: signal.Signals) -> None:
        """In a thread: the engine takes its time. One that is not up yet, its image being fetched, is given up."""
        if self.process.poll() is None:
            self.helpers.append(threading.Thread(target=self._signal, args=(number,), daemon=True))
            self.helpers[-1].start()

    def _signal(self, number: signal.Signals) -> None:
        if not self._ask("kill", "--signal", number.name.removeprefix("SIG")) and number is signal.SIGKILL:
            self.process.kill()

    def _ask(self, *what: str) -> bool:
        command = [self.engine, *what, self.name]
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(command, capture_output=True, timeout=_END_SECONDS, check=False)  # noqa: S603
            return done.returncode == 0
        return False

    def last_words(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_END_SECONDS)
        self.said.seek(0)
        return self.said.read().decode("utf-8", "replace").strip()[-800:]

    def end(self) -> None:
        """See to it that nothing is left. Blocking."""
        for helper in self.helpers:
            helper.join()
        try:
            self.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.returncode < 0:  # it was killed, and could not remove the container
            self._ask("rm", "--force")
        self.said.close()
        remove(self.folder)


class DockerSession(WorkerSession):
    """One live REPL in a container."""

    def __init__(
        self, environment: DockerEnvironment, engine: str, packed: inputs.Packed, host: Host, limits: CellLimits
    ) -> None:
        self._environment = environment
        self._engine = engine
        self._containers: list[_Container] = []
        self._starting_one: asyncio.Future[None] | None = None
        super().__init__(
            packed,
            host,
            limits,
            isolation=environment.isolation(engine),
            seconds=environment.cell_seconds,
            max_frame=environment.max_frame,
        )

    async def start(self) -> None:
        """Start a container, bind everything, and take the inputs off the disk again."""
        await super().start()
        await off_loop(remove, self._containers[-1].folder)

    async def _connect(self, protocol: Callable[[], Link]) -> Link:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._starting_one = asyncio.ensure_future(off_loop(self._run, theirs))
        try:
            # A thread goes on when its caller is cancelled: close() waits for what it starts, and ends it.
            await asyncio.shield(self._starting_one)
        except BaseException as error:
            ours.close()
            if not isinstance(error, OSError):
                raise
            raise EnvironmentFailure(f"{self._engine} could not be started: {error}") from error
        return (await asyncio.get_running_loop().create_unix_connection(protocol, sock=ours))[1]

    def _run(self, pipe: socket.socket) -> None:
        with pipe:
            self._containers.append(self._started_with(pipe.fileno()))

    def _started_with(self, fd: int) -> _Container:
        folder, specs, mounts = share(self._packed)
        name = f"dszig-{uuid.uuid4().hex[:16]}"
        request = {
            "max_frame": self._environment.max_frame,
            "address_space": size_in_bytes(self._environment.memory),
            "inputs": specs,
        }
        command = self._environment.command(self._engine, name, f"{folder}/shared", request, mounts)
        said = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the container; a pipe nobody reads would block it
        try:
            process = subprocess.Popen(command, stdin=fd, stdout=fd, stderr=said, start_new_session=True)  # noqa: S603
        except BaseException:
            said.close()
            remove(folder)
            raise
        return _Container(self._engine, name, folder, said, process)

    def _signal(self, number: signal.Signals) -> None:
        if self._containers:
            self._containers[-1].signal(number)

    async def _last_words(self) -> str:
        said = await off_loop(self._containers[-1].last_words)
        return f"{self._engine} run: {said or 'it ended at once'}"

    async def close(self) -> None:
        """End the container and remove what was shared with it: also where the run that is closed was cancelled."""
        with anyio.CancelScope(shield=True):
            if self._starting_one is not None:
                await asyncio.wait([self._starting_one])
            await super().close()
            containers, self._containers = self._containers, []
            for container in containers:
                await off_loop(container.end)


def share(packed: inputs.Packed) -> tuple[str, list[list[Any]], dict[str, str]]:
    """A folder of its own, closed to other users, with ``shared`` in it: the worker's program and the inputs, each as
    [name, kind, path in there, bytes]. Readable to all in there, for nobody is who reads it. Files and folders are not in
    it: what is to be mounted comes last, by name, as links to them, since an engine's options know no path with a comma, a
    line's end, or bytes that are no UTF-8.
    """
    folder = tempfile.mkdtemp(prefix="dszig-")
    try:
        shared = os.path.join(folder, "shared")
        os.mkdir(shared, 0o755)
        shutil.copytree(_WORKER, os.path.join(shared, "worker"), ignore=shutil.ignore_patterns("__pycache__"))
        specs, mounts = packed.specs(0), dict[str, str]()
        for passed in packed.opened:
            if passed.value.path:
                mounts[passed.name] = os.path.join(folder, passed.name)
                os.symlink(whereabouts(passed.name, passed.value.path, passed.fd), mounts[passed.name])
        for number, spec in enumerate(specs):
            if spec[0] in mounts:
                about = os.fstat(packed.fds[number])
                spec[2] = f"{_INPUTS}/{spec[0]}"
                spec[4]["same"] = [about.st_dev, about.st_ino]
            else:
                spec[2] = f"{_SHARED}/input-{number}"
                _copy(packed.fds[number], os.path.join(shared, f"input-{number}"), spec[3])
        for path, _folders, names in os.walk(shared):
            os.chmod(path, 0o755)  # noqa: S103 - the folder around it is closed
            for file in names:
                os.chmod(os.path.join(path, file), 0o444)
    except BaseException:
        remove(folder)
        raise
    return folder, specs, mounts


def _copy(fd: int, path: str, size: int) -> None:
    with open(path, "wb") as file:
        file.writelines(os.pread(fd, _CHUNK, start) for start in range(0, size, _CHUNK))


def remove(folder: str) -> None:
    """Remove what was shared; again is fine."""
    shutil.rmtree(folder, ignore_errors=True)
