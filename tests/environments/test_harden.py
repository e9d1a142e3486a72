"""Each claim of the kernel boundary, tried once by a real hardened process; the filters also run in a BPF model."""

from __future__ import annotations

import errno
import functools
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from dszig_py.environments._worker import harden

linux = pytest.mark.skipif(sys.platform != "linux", reason="Landlock and seccomp are Linux")

# Runs as `python -I -S -c`, forks a child the way a zygote does, and prints what the child sends up a pipe as JSON.
BOOT = """
import ctypes, ctypes.util, errno, importlib.util, json, mmap, os, sys, threading, time
job = json.loads(sys.argv[1])
if job["uid"]:
    os.setgroups([]); os.setgid(job["uid"]); os.setuid(job["uid"])
source = importlib.util.spec_from_loader("harden", loader=None)
harden = importlib.util.module_from_spec(source)
sys.modules["harden"] = harden
exec(compile(job["source"], "harden.py", "exec"), vars(harden))
lib = os.path.dirname(os.__file__)
read = [os.path.join(lib, name) for name in os.listdir(lib) if name != "site-packages"]
read += ["/dev/urandom", "/no/such/path"]
policy = harden.Policy(tuple(read), **job["policy"])
ruleset = None if policy.strict else harden.landlock_ruleset(policy.read)
program = harden.seccomp_program(policy.strict)
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

def denied(call, *args):
    "The name of the errno of an OSError, or what came back."
    try:
        return repr(call(*args))
    except OSError as error:
        return errno.errorcode[error.errno]

def syscall(number, *args):
    "errno by name of a bare system call, whatever Python's wrapper would make of it."
    result = libc.syscall(*map(ctypes.c_long, (number, *args)))
    return errno.errorcode[ctypes.get_errno()] if result < 0 else result

memfd = os.memfd_create("input")
os.write(memfd, b"context")
zygote = os.getpid()
harden.drop_bounding_set()
up, down = os.pipe()
pid = os.fork()
if pid == 0:
    try:
        harden.parent_death_signal(zygote)
        layers = harden.apply(policy, ruleset, program)
        scope = dict(globals())
        exec(job["code"], scope)
        answer = scope["answer"]
    except BaseException as error:
        answer = f"{type(error).__name__}: {error}"
    os.write(down, json.dumps(answer).encode())
    os._exit(0)
os.close(down)
answer = b""
while chunk := os.read(up, 65536):
    answer += chunk
print(json.dumps({"answer": json.loads(answer or "null"), "status": os.waitpid(pid, 0)[1]}))
"""
SOURCE = Path(harden.__file__).read_text(encoding="utf-8")


# name, x86_64, aarch64, as in the module.
DENIED_TABLE = """
socket 41 198|connect 42 203|bind 49 200|ptrace 101 117|unshare 272 97|mount 165 40|io_uring_setup 425 425
process_vm_readv 310 270|process_vm_writev 311 271|pidfd_open 434 434|pidfd_getfd 438 438|pidfd_send_signal 424 424
userfaultfd 323 282|bpf 321 280|perf_event_open 298 241|keyctl 250 219|setsid 112 157|execve 59 221|execveat 322 281
fork 57 -|vfork 58 -|tkill 200 130|rt_sigqueueinfo 129 138|rt_tgsigqueueinfo 297 240|setns 308 268|setuid 105 146
personality 135 92|shmget 29 194|open_by_handle_at 304 265|openat2 437 437|memfd_secret 447 447|sendmmsg 307 269
"""
DENIED = {machine: harden._table(DENIED_TABLE, column) for column, machine in enumerate(("x86_64", "aarch64"), 1)}
NUMBERS = {machine: harden.ARCHES[machine].calls | DENIED[machine] for machine in DENIED}


@functools.cache
def interpreter(uid: int) -> str:
    """A Python that this user can read, or a skip."""
    candidates = [sys.executable, "/usr/bin/python3"] if uid == 0 else ["/usr/bin/python3", sys.executable]
    for python in filter(os.path.exists, candidates):
        try:
            probe = subprocess.run(
                [python, "-I", "-S", "-c", f"import os; os.setuid({uid}); open(os.__file__).close()" if uid else ""],
                capture_output=True,
                check=False,
            )
        except OSError:
            continue
        if probe.returncode == 0:
            return python
    pytest.skip("no interpreter whose standard library this user can read")


def run(code: str, uid: int = 0, **policy: Any) -> Any:
    outcome = start(code, uid, **policy)
    assert outcome["status"] == 0
    return outcome["answer"]


def start(code: str, uid: int = 0, **policy: Any) -> dict[str, Any]:
    job = {"source": SOURCE, "code": code, "uid": uid, "policy": policy}
    worker = subprocess.run(
        [interpreter(uid), "-I", "-S", "-c", BOOT, json.dumps(job)],
        capture_output=True,
        text=True,
        timeout=60,
        env={"MALLOC_ARENA_MAX": "2"},
        stdin=subprocess.DEVNULL,
        check=False,
        cwd="/",
    )
    assert worker.returncode == 0, worker.stderr
    return json.loads(worker.stdout)


@pytest.fixture(params=["caller", "nobody"])
def uid(request: pytest.FixtureRequest) -> int:
    probe = harden.available()
    if not probe.landlock or not probe.seccomp:
        pytest.skip(f"this kernel offers too little: {probe}")
    if request.param == "caller":
        return 0  # no change of user, root or not
    if os.geteuid() != 0:
        pytest.skip("only root can become nobody")
    return 65534


@pytest.fixture
def strict() -> dict[str, bool]:
    if not harden.available().seccomp:
        pytest.skip("this kernel has no seccomp filters")
    return {"strict": True}


def test_probe_leaves_the_process_alone() -> None:
    def state() -> list[str]:
        lines = Path("/proc/self/status").read_text().splitlines() if sys.platform == "linux" else []
        return [line for line in lines if line.startswith(("Seccomp", "NoNewPrivs", "Cap"))]

    before = state()
    probe = harden.available()
    assert state() == before
    assert probe.arch in harden.ARCHES or probe == harden.Probe(None, 0, False)


@linux
def test_every_layer_is_named(uid: int) -> None:
    layers = ["rlimits", "capabilities", "not_dumpable", "no_new_privs", "landlock", "seccomp"]
    assert run("answer = layers", uid) == layers


@linux
def test_files(uid: int) -> None:
    answer = run(
        """
answer = {path: denied(open, path) for path in ("/etc/passwd", f"/proc/{zygote}/mem", "/proc/self/mem", "/bin/sh")}
answer |= {path: denied(os.listdir, path) for path in ("/", "/tmp", "/proc", os.path.join(lib, "site-packages"))}
answer |= {"beneath a listed folder": denied(os.listdir, os.path.join(lib, "json"))[:1]}
""",
        uid,
    )
    assert answer.pop("beneath a listed folder") == "["
    assert {key for key, value in answer.items() if value not in ("EACCES", "ENOENT")} == set()


@linux
def test_nothing_can_be_written(uid: int) -> None:
    folder = tempfile.mkdtemp()
    os.chmod(folder, 0o777)
    try:
        answer = run(
            f"""
folder = {folder!r}
new = os.path.join(folder, "new")
module = os.path.join(lib, "json", "__init__.py")
answer = [denied(open, new, "w"), denied(open, module, "r+"), denied(os.mkdir, new), denied(os.symlink, "/", new),
          denied(os.mkfifo, new), denied(os.rmdir, folder), denied(os.chmod, folder, 0), denied(os.rename, folder, new),
          denied(os.truncate, module, 0), denied(os.utime, folder), denied(os.chdir, "/"), denied(os.chroot, "/"),
          denied(open, "/dev/shm/new", "w"), denied(open, "/dev/null", "w"), denied(os.link, module, new),
          denied(os.write, os.memfd_create("mine"), b"x")]
""",
            uid,
        )
        assert set(answer[:-1]) <= {"EACCES", "EPERM"}
        assert answer[-1] == "EFBIG"  # RLIMIT_FSIZE
        assert os.listdir(folder) == []
    finally:
        shutil.rmtree(folder)


@linux
def test_forbidden_calls(uid: int) -> None:
    numbers = NUMBERS[os.uname().machine]
    alias = {"clone_fork": "clone", "clone_newuser": "clone", "kill_parent": "kill", "kill_all": "kill"}
    denied = [*DENIED[os.uname().machine], *alias, "landlock_create_ruleset", "seccomp", "capset"]
    answer = run(
        f"""
numbers = {numbers!r}
parent = os.getppid()
arguments = {{"socket": (1, 1), "ptrace": (16, parent), "unshare": (0x10000000,), "pidfd_open": (parent,),
             "clone_fork": (17,), "clone_newuser": (0x10000000 | 17,), "kill_parent": (parent,),
             "kill_all": (-1,), "tkill": (os.getpid(),)}}
alias = {alias!r}
answer = {{name: syscall(numbers[alias.get(name, name)], *arguments.get(name, ())) for name in {denied!r}}}
answer["fork"] = denied(os.fork)
answer["forkpty"] = denied(os.forkpty)
answer["os.kill"] = denied(os.kill, parent, 0)
answer["clone3"] = syscall(435, 0, 0)
""",
        uid,
    )
    assert answer.pop("clone3") == "ENOSYS"
    assert answer.pop("forkpty") in ("EPERM", "EACCES", "ENOENT")
    assert {name: got for name, got in answer.items() if got != "EPERM"} == {}


@linux
def test_arguments_decide(uid: int) -> None:
    answer = run(
        """
import fcntl, resource, signal, socket
a, b = socket.socketpair()
lower = (ctypes.c_uint64 * 2)(8, 8)
answer = {
    "own pid": denied(os.kill, os.getpid(), 0),
    "own group": denied(os.kill, 0, 0),
    "raise": denied(signal.raise_signal, signal.SIGCHLD),
    "F_SETOWN": denied(fcntl.fcntl, a.fileno(), fcntl.F_SETOWN, os.getppid()),
    "F_SETSIG": denied(fcntl.fcntl, a.fileno(), 10, 9),
    "F_NOTIFY": denied(fcntl.fcntl, a.fileno(), fcntl.F_NOTIFY, 1),
    "O_ASYNC": denied(fcntl.fcntl, a.fileno(), fcntl.F_SETFL, 0o20000),
    "F_SETFL": denied(fcntl.fcntl, a.fileno(), fcntl.F_SETFL, os.O_NONBLOCK),
    "datagrams": denied(socket.socketpair, socket.AF_UNIX, socket.SOCK_DGRAM),
    "send": denied(a.send, b"x"),
    "sendto": denied(a.sendto, b"x", "/dev/log"),
    "TIOCSTI": denied(fcntl.ioctl, a.fileno(), 0x5412, b"x"),
    "isatty": [os.isatty(fd) for fd in (0, 1, 2)],
    "getrlimit": resource.getrlimit(resource.RLIMIT_NOFILE),
    "setrlimit": syscall(harden.ARCHES[os.uname().machine].calls["prlimit64"], 0, 7, ctypes.addressof(lower), 0),
    "of the parent": denied(resource.prlimit, os.getppid(), resource.RLIMIT_NOFILE),
    "name": libc.prctl(15, b"cell", 0, 0, 0),
    "dumpable": libc.prctl(4, 1, 0, 0, 0),
    "executable memory": denied(mmap.mmap, -1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_EXEC),
    "inheritable": denied(os.set_inheritable, a.fileno(), True),
}
""",
        uid,
    )
    refused = {key for key, value in answer.items() if value == "EPERM"}
    assert refused == {
        *(
            "own group",
            "F_SETOWN",
            "F_SETSIG",
            "F_NOTIFY",
            "O_ASYNC",
            "datagrams",
            "sendto",
            "setrlimit",
            "of the parent",
        ),
        "executable memory",
    }
    assert {key for key, value in answer.items() if value == "None"} >= {"own pid", "raise", "inheritable"}
    assert answer["F_SETFL"] == "0" and answer["send"] == "1" and answer["TIOCSTI"] == "ENOTTY"
    assert answer["isatty"] == [False, False, False] and answer["getrlimit"] == [256, 256]
    assert answer["name"] == 0 and answer["dumpable"] == -1


@linux
def test_python_still_works(uid: int) -> None:
    answer = run(
        """
before = set(sys.modules)
import asyncio, colorsys, concurrent.futures, csv, signal, statistics, subprocess, _heapq
async def both():
    return await asyncio.gather(asyncio.sleep(0.01, 1), asyncio.to_thread(lambda: 2))
threading.stack_size(512 * 1024)
gate = threading.Barrier(101)
threads = [threading.Thread(target=gate.wait, args=(30,)) for _ in range(100)]
for thread in threads:
    thread.start()
gate.wait(30)
for thread in threads:
    thread.join()
began = time.monotonic()
time.sleep(0.02)
try:
    huge = bytearray(4 << 30)
except MemoryError:
    huge = None
view = mmap.mmap(memfd, 7, access=mmap.ACCESS_READ)
fired = []
signal.signal(signal.SIGALRM, lambda *_: fired.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.01)
time.sleep(0.03)
answer = {"new": "statistics" in set(sys.modules) - before, "asyncio": asyncio.run(both()),
          "slept": time.monotonic() - began, "huge": huge,
          "subprocess": denied(subprocess.run, ["/bin/true"]), "system": os.system("true") != 0,
          "input": view[:].decode(), "random": len(os.urandom(8)), "alarm": fired,
          "pool": list(concurrent.futures.ThreadPoolExecutor(8).map(abs, [-1, -2]))}
""",
        uid,
        address_space=1 << 30,
    )
    assert answer.pop("slept") >= 0.02
    assert answer == {
        "new": True,
        "asyncio": [1, 2],
        "huge": None,
        "subprocess": "EPERM",
        "system": True,
        "input": "context",
        "random": 8,
        "alarm": [1],
        "pool": [1, 2],
    }


@linux
def test_loopback_is_out_of_reach(uid: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = f"import socket\nanswer = denied(socket.create_connection, ('127.0.0.1', {port}), 1)"
        assert run(code, uid) in ("EPERM", "EACCES")


@linux
def test_strict_reads_nothing_and_runs_what_is_loaded(strict: dict[str, bool]) -> None:
    answer = run(
        """
try:
    import statistics
    new = "imported"
except ImportError:
    new = None
except PermissionError:
    new = None
inlet, outlet = os.pipe()
with open(outlet, "w") as stream:
    stream.write("text")
answer = {"layers": layers, "loaded": json.loads("[1]"), "new": new, "pipe": open(inlet).read(),
          "input": mmap.mmap(memfd, 7, access=mmap.ACCESS_READ)[:].decode(),
          "files": [denied(open, os.__file__), denied(open, "/dev/urandom"), denied(os.listdir, lib),
                    denied(os.stat, "/etc/passwd"), denied(os.readlink, "/proc/self/exe"), os.access("/etc/passwd", 0)]}
""",
        **strict,
    )
    assert answer == {
        "layers": ["rlimits", "capabilities", "not_dumpable", "no_new_privs", "seccomp"],
        "loaded": [1],
        "new": None,
        "pipe": "text",
        "input": "context",
        "files": ["EPERM"] * 5 + [False],
    }


@linux
def test_cpu_seconds_end_the_process(uid: int) -> None:
    outcome = start("while True: pass", uid, cpu_seconds=1)
    assert outcome["answer"] is None
    assert os.waitstatus_to_exitcode(outcome["status"]) == -24  # SIGXCPU


@linux
def test_capabilities_are_gone() -> None:
    if os.geteuid() != 0 or not harden.available().landlock:
        pytest.skip("only root has capabilities to lose")
    # /proc is closed to the worker, so its status is opened before the boundary.
    code = "answer = [line.split()[1] for line in os.fdopen(status) if line.startswith('Cap')]"
    boot = BOOT.replace(
        "        layers =", '        status = os.open("/proc/self/status", os.O_RDONLY)\n        layers ='
    )
    job = {"source": SOURCE, "code": code, "uid": 0, "policy": {}}
    command = [interpreter(0), "-I", "-S", "-c", boot, json.dumps(job)]
    worker = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(worker.stdout)["answer"] == ["0" * 16] * 5


@linux
def test_apply_refuses_a_boundary_with_a_hole() -> None:
    arch = harden.ARCHES["x86_64"]
    loose = harden.seccomp_program(False, arch)
    with pytest.raises(OSError, match="must be strict"):
        harden.apply(harden.Policy(), None, loose)
    with pytest.raises(OSError, match="must be strict"):
        harden.apply(harden.Policy(strict=True), None, loose)


@linux
def test_worker_dies_with_its_parent() -> None:
    code = """
import os, sys, time
scope = {"__name__": "harden"}
sys.modules["harden"] = sys
exec(sys.argv[1], scope)
zygote, (inlet, outlet) = os.getpid(), os.pipe()
try:
    scope["parent_death_signal"](zygote)
except ProcessLookupError:
    print("not my parent", flush=True)
if os.fork() == 0:
    scope["parent_death_signal"](zygote)
    os.write(outlet, b"x")
    time.sleep(600)
os.read(inlet, 1)
"""
    # Its output ends when the last holder of the pipe does, the forked child.
    command = [sys.executable, "-I", "-S", "-c", code, SOURCE]
    assert subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout == "not my parent\n"


ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000
PID = 4321


def steps(program: harden.Program) -> list[tuple[int, int, int, int]]:
    return list(struct.iter_unpack("=HBBI", program.for_pid(PID)))


def verdict(code: list[tuple[int, int, int, int]], number: int, *arguments: int, audit: int) -> int:
    """What the kernel would answer: the few operations of classic BPF that the filter uses."""
    data = struct.pack(
        "=IIQ6Q", number, audit, 0, *(a & (2**64 - 1) for a in (*arguments, *[0] * (6 - len(arguments))))
    )
    accumulator, at = 0, 0
    while True:
        operation, yes, no, immediate = code[at]
        at += 1
        if operation == 0x06:
            return immediate
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, immediate)
        elif operation == 0x54:
            accumulator &= immediate
        else:
            holds = {0x15: accumulator == immediate, 0x35: accumulator >= immediate}[operation]
            at += yes if holds else no


@pytest.fixture(params=["x86_64", "aarch64"])
def machine(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[False, True])
def program(request: pytest.FixtureRequest, machine: str) -> harden.Program:
    return harden.seccomp_program(request.param, harden.ARCHES[machine])


def test_program_is_valid(program: harden.Program) -> None:
    code = steps(program)
    assert len(code) < 4096
    assert len(program.own_pid) == 2 and sum(step[3] == PID for step in code) == 2
    for at, (operation, yes, no, immediate) in enumerate(code):
        if operation in (0x15, 0x35):
            assert at + 1 + max(yes, no) < len(code)
        elif operation == 0x20:
            assert immediate % 4 == 0 and immediate < 64
    assert code[-1] == (0x06, 0, 0, REFUSE | errno.EPERM)


def test_program_answers(program: harden.Program, machine: str) -> None:
    arch, numbers = harden.ARCHES[machine], NUMBERS[machine]
    code = steps(program)

    def ask(name: str, *arguments: int) -> int:
        return verdict(code, numbers[name], *arguments, audit=arch.audit)

    denied = REFUSE | errno.EPERM
    assert ask("read") == ask("futex") == ask("exit_group") == ALLOW
    assert ask("openat") == (denied if program.strict else ALLOW)
    assert verdict(code, numbers["read"], audit=arch.audit ^ 1) == KILL
    assert verdict(code, 0x40000000 | numbers["read"], audit=arch.audit) == (KILL if machine == "x86_64" else denied)
    assert ask("clone", 0x3D0F00) == ALLOW  # what pthread_create passes
    assert {ask("clone", flags) for flags in (17, 0x4111, 0x01200011, 0x3D0F00 | 1 << 30)} == {denied}
    assert ask("prlimit64", 0, 7, 0, 1 << 40) == ALLOW
    assert ask("prlimit64", 0, 7, 1 << 40) == ask("prlimit64", 0, 7, 8) == ask("prlimit64", PID) == denied
    assert ask("sendto", 3, 0, 0, 0, 0) == ALLOW
    assert ask("sendto", 3, 0, 0, 0, 1 << 40) == ask("sendto", 3, 0, 0, 0, 8) == denied
    assert ask("kill", PID) == ask("tgkill", PID) == ALLOW
    assert {ask("kill", pid) for pid in (0, -1, 1, -PID, PID + 1, 0x7FFFFFFF)} == {denied}
    assert ask("socketpair", 1, 1 | 0x80800) == ALLOW
    assert ask("socketpair", 1, 2) == ask("socketpair", 1, 5) == ask("socketpair", 2, 1) == denied
    assert ask("mmap", 0, 4096, 5, 0x2) == ask("mmap", 0, 4096, 3, 0x22) == ALLOW  # a library, ordinary memory
    assert ask("mmap", 0, 4096, 7, 0x22) == ask("mprotect", 0, 4096, 5) == denied
    assert ask("fcntl", 3, 4, 0x800) == ALLOW
    assert ask("fcntl", 3, 4, 0x2000) == ask("fcntl", 3, 8, PID) == denied
    ours = ["capset", "seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"]
    assert {name for name in (*DENIED[machine], *ours) if ask(name) != denied} == set()


def test_an_open_truncates_only_what_it_writes_and_makes_nothing_without_a_name(machine: str) -> None:
    """O_TRUNC without write access would get past Landlock before its third ABI; a file without a name past who measures."""
    arch = harden.ARCHES[machine]
    for writing in (False, True):
        code = steps(harden.seccomp_program(False, arch, writing=writing))
        for name, flags in {"open": 1, "openat": 2}.items():
            if name not in arch.calls:
                continue

            def ask(value: int, name: str = name, flags: int = flags) -> int:
                return verdict(code, arch.calls[name], *[0] * flags, value, audit=arch.audit)

            allowed = [os.O_RDONLY, os.O_RDWR | os.O_TRUNC, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC]
            refused = [os.O_TRUNC, os.O_TRUNC | 3, os.O_TMPFILE | os.O_RDWR, 0o20000000 | os.O_WRONLY]
            assert {ask(value) for value in allowed} == {ALLOW}
            assert {ask(value) for value in refused} == {REFUSE | errno.EPERM}


def test_who_can_write_maps_no_code_and_takes_no_name_away(machine: str) -> None:
    """With a scratch folder: folders and renames to what is not there; no file mapped as code, no memfd, no unlink."""
    arch, denied = harden.ARCHES[machine], REFUSE | errno.EPERM
    writing = steps(harden.seccomp_program(False, arch, writing=True))
    plain = steps(harden.seccomp_program(False, arch))

    def ask(code: list[tuple[int, int, int, int]], name: str, *arguments: int) -> int:
        return verdict(code, arch.calls[name], *arguments, audit=arch.audit)

    for name in ("mkdirat", "fsync", "fdatasync", "renameat2"):
        arguments = (0, 0, 0, 0, 1) if name == "renameat2" else ()
        assert (ask(writing, name, *arguments), ask(plain, name, *arguments)) == (ALLOW, denied)
    assert {ask(writing, "renameat2", 0, 0, 0, 0, flags) for flags in (0, 2, 3, 4)} == {denied}
    assert (ask(writing, "memfd_create"), ask(plain, "memfd_create")) == (denied, ALLOW)
    assert ask(writing, "mmap", 0, 4096, 1, 0x2) == ask(writing, "mmap", 0, 4096, 3, 0x22) == ALLOW
    assert (ask(writing, "mmap", 0, 4096, 5, 0x2), ask(plain, "mmap", 0, 4096, 5, 0x2)) == (denied, ALLOW)
    # unlink, unlinkat, rename, renameat, link, linkat, symlink, symlinkat, chmod, fchmod, fchmodat, truncate, fallocate
    away = {
        "x86_64": [87, 263, 82, 264, 86, 265, 88, 266, 90, 91, 268, 76, 285],
        "aarch64": [35, 38, 37, 36, 52, 53, 45, 47],
    }
    assert {verdict(writing, number, audit=arch.audit) for number in away[machine]} == {denied}


def test_files_of_any_size_need_the_program_for_them() -> None:
    """A limit above nothing with the filter that lets memfds through is refused: no limit would count those."""
    with pytest.raises(OSError, match="the one for that"):
        harden.apply(harden.Policy(file_size=1), 0, harden.seccomp_program(False, harden.ARCHES["x86_64"]))


def test_unpatched_program_signals_nobody(machine: str) -> None:
    program = harden.seccomp_program(False, harden.ARCHES[machine])
    code = list(struct.iter_unpack("=HBBI", program.code))
    kill = harden.ARCHES[machine].calls["kill"]
    for pid in (0, 1, -1, 4194304):
        assert verdict(code, kill, pid, audit=harden.ARCHES[machine].audit) == REFUSE | errno.EPERM


@pytest.mark.parametrize(
    ("abi", "handled"),
    [
        (1, (0x1FFF, 0, 0)),
        (2, (0x3FFF, 0, 0)),
        (3, (0x7FFF, 0, 0)),
        (4, (0x7FFF, 3, 0)),
        (5, (0xFFFF, 3, 0)),
        (7, (0xFFFF, 3, 3)),
    ],
)
def test_landlock_rights_grow_with_the_abi(abi: int, handled: tuple[int, int, int]) -> None:
    assert harden._handled(abi) == handled


@linux
def test_ruleset_descriptor_is_not_inherited() -> None:
    if not harden.available().landlock:
        pytest.skip("this kernel has no Landlock")
    ruleset = harden.landlock_ruleset(["/etc", "/etc/passwd", "/no/such/path", "/etc/passwd/below"])
    try:
        assert not os.get_inheritable(ruleset)
    finally:
        os.close(ruleset)
