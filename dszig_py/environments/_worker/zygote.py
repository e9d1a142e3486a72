"""The zygote and its workers: ``python -S -s -P zygote.py CONTROL_FD``. Standard library only, Linux and macOS.

The zygote is started once per host process with an empty environment, imports what cells usually import, and then
forks one worker per session on request: fork from a small warm process costs about a millisecond, a fresh interpreter
fifty. It is never forked from the host, whose memory holds API keys. It stays single-threaded (fork is safe then), ends
by end-of-file on its control socket, and is the only one to signal workers, since only a parent can know that a process
number has not been reused. Workers carry PR_SET_PDEATHSIG; the zygote does not, because that signal fires when the
host *thread* that started it ends.
"""

from __future__ import annotations

import collections
import dataclasses
import gc
import importlib
import importlib.abc
import importlib.util
import json
import linecache
import mmap
import os
import pickle
import select
import signal
import socket
import struct
import sys
import threading
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import cell  # only after the line above can these be found
import channel
import codec
import files
import harden
import keeping
import pages
import scratch
import typed

sys.path.pop(0)

HEADER = struct.Struct(">I")
MAX_RULESETS = 64
MANY = 4  # workers with the same text; for fewer, the copy into a file costs more than it brings
MAX_FDS = 253  # SCM_MAX_FD of the kernel: what one message can carry
WARM_UP = "x = 1\nx"  # no more: pages that the cells to come do not need would be copied for nothing
# Bound now: a cell may put something else in their place.
_on_signal, _get_ident, _flush = signal.signal, threading.get_ident, scratch.flush
PRELOAD = (
    "abc argparse array ast asyncio base64 bisect calendar collections concurrent.futures.thread contextlib copy csv "
    "dataclasses datetime decimal difflib enum fnmatch fractions functools glob gzip hashlib heapq html html.parser io "
    "itertools json logging math numbers operator pathlib pickle pprint queue random re secrets shlex statistics string "
    "struct tempfile textwrap threading time timeit tokenize traceback types typing unicodedata urllib.parse uuid warnings weakref "
    "xml.etree.ElementTree zlib zoneinfo bz2 lzma cmath inspect locale colorsys graphlib codecs keyword ipaddress "
    "encodings.idna encodings.latin_1 encodings.utf_16 encodings.utf_32 encodings.cp1252 encodings.ascii _strptime"
)


class Zygote:
    """Forks, signals and reaps workers as the control socket says."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.ended, self.wakes = watch_children()
        self.pids: dict[int, int] = {}
        self.pid = os.getpid()
        self.rulesets: dict[tuple[str, ...], int] = {}
        self.programs: dict[tuple[bool, bool], Any] = {}
        self.texts: dict[int, Any] = {}  # large inputs of several sessions, decoded once
        self.born_with: collections.Counter[int] = collections.Counter()  # workers, by text

    def serve(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the host's terminal is the host's to handle
        send(self.control, {"ready": os.getpid(), **dataclasses.asdict(harden.available())})
        mute()
        poll = (
            select.poll()
        )  # select() takes no number over 1,023, and the host's own decide which number this socket has
        for sock in (self.control, self.ended):
            poll.register(sock, select.POLLIN)
        while True:
            ready = [fd for fd, _event in poll.poll()]
            if self.ended.fileno() in ready:
                self.ended.recv(4096)
                self.reap()
            if self.control.fileno() in ready and not self.answer():
                break
        for pid in self.pids.values():
            os.kill(pid, signal.SIGKILL)

    def answer(self) -> bool:
        """One request of the host's; False at its end."""
        request, fds = receive(self.control)
        if request is None:
            return False
        if request["op"] == "fork":
            self.fork(request, fds)
        elif request["op"] == "forget":
            self.texts.pop(request["key"], None)
            self.born_with.pop(request["key"], None)
        elif request["token"] in self.pids:
            os.kill(self.pids[request["token"]], request["signal"])
        return True

    def fork(self, request: dict[str, Any], fds: list[int]) -> None:
        ruleset = None
        try:
            folders = [fds[spec[2]] for spec in request["inputs"] if spec[1] == "folder"]
            written = fds[request["scratch"]] if "scratch" in request else None
            ruleset, program = self.prepare(request["policy"], folders, written)
            self.keep(request, fds)
            pid = os.fork()
            if pid == 0:
                run_worker(request, fds, self, (ruleset, program))  # never returns
            self.pids[request["token"]] = pid
        except (OSError, MemoryError) as error:
            # A path that may not be read, too many processes, no room for a text: one session's end, not everybody's.
            report(fds[0], error)
        finally:
            for fd in [*fds, *([] if ruleset is None else [ruleset])]:
                os.close(fd)

    def prepare(
        self, policy: dict[str, Any] | None, folders: list[int], written: int | None = None
    ) -> tuple[int | None, Any]:
        """What the kernel can be told ahead of the fork: a Landlock ruleset costs 11 ms to build, 0.2 ms to apply."""
        if policy is None or sys.platform == "darwin":  # there the zygote itself was started under a profile
            return None, None
        strict, key = policy["strict"], tuple(policy["read"])
        kind = (strict, written is not None)
        if kind not in self.programs:
            self.programs[kind] = harden.seccomp_program(strict, writing=written is not None)
        if not strict and (folders or written is not None):  # this session's alone: what a ruleset allows can only grow
            return harden.landlock_ruleset([*standard_library(), *key], folders, written), self.programs[kind]
        if not strict and key not in self.rulesets:
            if len(self.rulesets) >= MAX_RULESETS:
                os.close(self.rulesets.pop(next(iter(self.rulesets))))
            self.rulesets[key] = harden.landlock_ruleset([*standard_library(), *key])
        return (None if strict else os.dup(self.rulesets[key])), self.programs[kind]

    def keep(self, request: dict[str, Any], fds: list[int]) -> None:
        """Decode what sessions share, for their workers to be born with: pages that nobody writes to exist once."""
        for spec in request["inputs"]:
            if spec[0] not in request["shared"]:
                continue
            key, plain = request["shared"][spec[0]]
            if key not in self.texts:
                text = pages.ascii_text(fds[spec[2]], spec[3]) if plain else None
                self.texts[key] = load_input(spec, fds)[1] if text is None else text
                self.born_with[key] = MANY if text is not None else 0
            self.born_with[key] += 1
            if self.born_with[key] == MANY:
                pages.put_on_a_file(self.texts[key])

    def reap(self) -> None:
        """Between requests only: until here a dead worker keeps its number, so a signal can reach no other process."""
        while self.pids:
            pid, _status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            self.pids = {token: p for token, p in self.pids.items() if p != pid}


def watch_children() -> tuple[socket.socket, socket.socket]:
    """A socket that is readable once a worker has ended, and the one that Python writes to for it. The handler itself does
    nothing: Python runs one between any two instructions, blocked or not, and reaping there has signalled numbers that
    were gone already.
    """
    ended, wakes = socket.socketpair()
    wakes.setblocking(False)
    signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return ended, wakes


def standard_library() -> list[str]:
    """What every worker may read: the library's own files and folders, site-packages left out, and the time zones."""
    folder = os.path.dirname(os.__file__)
    own = [os.path.join(folder, name) for name in os.listdir(folder) if name not in ("site-packages", "dist-packages")]
    return [*own, *dynload(), "/usr/share/zoneinfo", "/dev/urandom", "/etc/mime.types"]  # the last is for mimetypes


def dynload() -> list[str]:
    """Where the library's extension modules are."""
    return [path for path in sys.path if path.endswith("lib-dynload")]


class Importable(importlib.abc.MetaPathFinder):
    """Finds the allowed packages by the files the host named, and of site-packages nothing else."""

    def __init__(self, modules: list[list[Any]]) -> None:
        self.modules = {name: (path, is_package) for name, path, is_package in modules}

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if path is not None or name not in self.modules:
            return None
        file, is_package = self.modules[name]
        inside = [os.path.dirname(file)] if is_package else None
        return importlib.util.spec_from_file_location(name, file, submodule_search_locations=inside)


def mute() -> None:
    """Standard error was the host's pipe, for a start that fails. Nobody reads it now: once full, it would block all."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 2)
    os.close(null)


def send(sock: socket.socket, message: dict[str, Any]) -> None:
    body = json.dumps(message).encode()
    sock.sendall(HEADER.pack(len(body)) + body)


def receive(sock: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """One request and the descriptors that came with its first byte; None at end of file, or in the midst of one."""
    header, fds, _flags, _address = socket.recv_fds(sock, HEADER.size, MAX_FDS)
    try:
        header += exactly(sock, HEADER.size - len(header))
        return json.loads(exactly(sock, *HEADER.unpack(header))), list(fds)
    except EOFError:
        return None, []


def exactly(sock: socket.socket, size: int) -> bytes:
    """So many bytes; MSG_WAITALL gives fewer when a signal comes. EOFError where the host has died in the middle."""
    parts: list[bytes] = []
    while size:
        part = sock.recv(size)
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def run_worker(request: dict[str, Any], fds: list[int], zygote: Zygote, prepared: tuple[int | None, Any]) -> None:
    """The child's whole life. Leaves by ``os._exit`` only: the zygote's stack must never unwind in a child."""
    status = 1
    try:
        if sys.platform == "linux":
            harden.parent_death_signal(zygote.pid)
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)  # its answer is no descriptor to close: from 3.12 on asyncio has been here before us
        zygote.wakes.close()
        zygote.ended.close()
        zygote.control.close()
        for ruleset in zygote.rulesets.values():
            os.close(ruleset)
        sock = socket.socket(fileno=fds[0])
        sys.meta_path.append(Importable(request["import"]))
        born_with = {name: zygote.texts[key] for name, (key, _plain) in request["shared"].items()}
        zygote.texts.clear()  # another session's are unmapped by this, before any code runs
        own = [load_input(spec, fds) for spec in request["inputs"] if spec[0] not in born_with]
        if "scratch" in request:
            own.append(("scratch", "."))
            scratch.enter(fds[request["scratch"]])
            found = (os.path.dirname(path) if is_package else path for _name, path, is_package in request["import"])
            scratch.load_extensions([*dynload(), *found])
        if "scratch" in request or any(spec[1] == "pickle" for spec in request["inputs"]):
            no_threads()
        for fd in fds[1:]:
            os.close(fd)
        layers: list[str] = []
        if request["policy"] is not None and sys.platform == "darwin":
            harden.limits(harden.Policy(**request["policy"]))
        elif request["policy"] is not None:
            layers = harden.apply(harden.Policy(**request["policy"]), *prepared)
        worker = Worker(sock, request["max_frame"])
        worker.writes = "scratch" in request
        worker.serve({**dict(own), **born_with}, layers)
        status = 0
    except channel.HostGone:
        status = 0
    except BaseException as error:
        report(fds[0], error)
    finally:
        os._exit(status)


def no_threads() -> None:
    """Unpickling has imported a package. A thread that it started would run outside of the filters."""
    if sys.platform == "linux" and len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError("an allowed package started a thread when it was imported: no filter would hold that")


def report(fd: int, error: BaseException) -> None:
    """A start that failed says why, in the first frame; then the host refuses rather than run without a layer."""
    try:
        body = json.dumps({"t": "failed", "error": f"{type(error).__name__}: {error}"}).encode()
        os.write(fd, HEADER.pack(len(body)) + body)
    except OSError:
        pass


def load_input(spec: list[Any], fds: list[int]) -> tuple[str, Any]:
    """One input out of its memfd, mapped and decoded; the mapping and the descriptor are gone afterwards."""
    name, kind, index, size, *about = spec
    if kind in files.KINDS:
        return name, files.received(name, kind, fds[index], size, about[0])
    if size == 0:
        data: Any = b""
        value = _decode_input(kind, data)
    else:
        with mmap.mmap(fds[index], size, access=mmap.ACCESS_READ) as data:
            value = _decode_input(kind, data)
    return name, value


def _decode_input(kind: str, data: Any) -> Any:
    if kind == "pickle":  # the host's own, of a package that the caller allows; what a worker sends is never unpickled
        return pickle.loads(data)
    if kind == "text":
        return str(data, "utf-8", "surrogatepass")
    return bytes(data) if kind == "bytes" else codec.decode(codec.loads(bytes(data)))


class Worker:
    """One session: reads commands, runs cells, calls the host."""

    def __init__(self, sock: socket.socket, max_frame: int) -> None:
        self.channel = channel.Channel(sock, codec.dumps, codec.loads, codec.too_many_values, max_frame)
        self.repl = cell.Repl()
        self.originals: dict[str, Any] = {}
        self.seconds = 0.0
        self.main = threading.get_ident()
        self.running = False
        self.in_call = 0
        self.interrupted = False
        self.writes = False

    def serve(self, variables: dict[str, Any], layers: list[str]) -> None:
        threading.excepthook = cell.quiet_submit
        threading.stack_size(512 * 1024)  # a thread's default 8 MiB stack counts against the address space limit
        self.repl.bind(variables, {})
        self.channel.send({"t": "ready", "layers": layers, "pid": os.getpid()})
        while True:
            frame = self.channel.command()
            if frame["t"] == "exec":
                self.execute(frame)
            elif frame["t"] == "vars":
                self.channel.send({"t": "vars", "vars": self.repl.show_vars()})
            elif frame["t"] == "keep":
                values, lost = keeping.snapshot(self.repl, codec, frame["most"])
                self.channel.send({"t": "kept", "values": values, "lost": lost})
            else:
                self.bind(frame)
                if not self.channel.execution:
                    self.warm_up()

    def warm_up(self) -> None:
        """Do once what every cell does, while the model thinks: a forked process copies a page when it first writes to
        it, which made a first cell take four times as long as a second.
        """
        if self.channel.waiting():
            return
        output, name = cell.Output(100), " before the first"
        result = cell.Repl(name=name).execute(WARM_UP, 0, output)
        linecache.cache.pop(f"<cell 0{name}>", None)
        codec.dumps([*output.parts(), result, codec.encode([name]), codec.encode({})])

    def bind(self, frame: dict[str, Any]) -> None:
        functions = cell.stubs(frame["functions"], self.call, typed.TypedCalls(self.call, self.repl.namespace))
        values = {name: codec.decode(value) for name, value in frame["values"]}
        again = {name: self.originals[name] for name in frame.get("again", ())}
        self.repl.bind({**again, **values}, functions)
        self.repl.namespace.update({name: codec.decode(value) for name, value in frame.get("carried", ())})
        if frame.get("keep"):  # what cells make of an input is theirs; the next run gets it as it was given
            names = self.repl.namespace
            texts = {name: names[name] for name in self.repl.inputs if type(names.get(name)) in (str, bytes)}
            self.originals.update({name: text for name, text in texts.items() if name not in again})

    def execute(self, frame: dict[str, Any]) -> None:
        self.channel.execution = frame["x"]
        self.seconds = frame["seconds"]
        output = cell.Output(frame["out"])
        sys.stdout = sys.stderr = output
        _on_signal(signal.SIGINT, self.on_interrupt)  # each time: a cell may have replaced it
        self.interrupted = False
        self.running = True
        try:
            result = self.repl.execute(frame["code"], frame["number"], output)
        except cell.CellTimeout as error:  # it landed between the cell's last line and ours
            result = {"value": None, "error": cell.describe(error), "submitted": False}
        finally:
            self.running = False
            cell.stop_tracing()
        head, tail, chars = output.parts()
        names = [name[:100] for name in self.repl.names()[:200]]
        self.channel.send(
            {"t": "done", "x": frame["x"], "head": head, "tail": tail, "chars": chars, "names": names, **result}
        )

    def on_interrupt(self, *_: Any) -> None:
        """SIGINT is the host's word that the cell's seconds are over. Never raised in the middle of a frame."""
        if self.in_call:
            self.interrupted = True
        elif self.running:
            self.running = False
            raise cell.CellTimeout(f"the cell ran longer than {self.seconds:g} s and was stopped; variables are kept")

    def call(self, name: str, args: Any, kwargs: Any) -> Any:
        self.repl.put_builtins_back()
        if self.writes and name == "SUBMIT":
            _flush()
        on_main = _get_ident() == self.main
        packed = codec.encode(list(args)), codec.encode(kwargs)
        if on_main:
            self.in_call += 1
        try:
            reply = self.channel.call(name, *packed)
        finally:
            if on_main:
                self.in_call -= 1
        if on_main and self.interrupted and self.running:
            self.running = False
            raise cell.CellTimeout(f"the cell ran longer than {self.seconds:g} s and was stopped; variables are kept")
        return codec.decode(cell.answer(reply))


def preload() -> None:
    for name in PRELOAD.split():
        try:
            importlib.import_module(name)
        except ImportError:  # a Python built without bz2 or lzma still works
            continue


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    preload()
    if sys.platform == "linux":
        harden.not_dumpable()
        harden.drop_bounding_set()
    gc.collect()
    gc.freeze()  # the collector would otherwise touch, and so copy, every shared page in each worker
    Zygote(control).serve()


if __name__ == "__main__":
    main()
