"""Kernel hardening of a worker process that runs code nobody vouches for: rlimits, capabilities, Landlock, seccomp.

Pure ctypes and standard library, no root, no package: the zygote (`python -I -S`) loads this file on its own.
It calls `available`, `landlock_ruleset`, `seccomp_program`; its child, before it has threads, `parent_death_signal` and
`apply`, and leaves with `os._exit` when either raises.

Considered instead and not taken as the base: bubblewrap (several times the start-up, fails in default Docker and stock
Ubuntu), sandlock (a package that wants a recent Landlock), pydantic-monty (a language subset: a third of usual snippets
fail, large inputs do not fit), Pyodide in Deno (seconds to start, gigabytes for a large input). Audit hooks are no
boundary at all: ctypes and gc get round them. Landlock and seccomp are both needed: alone, Landlock leaves UDP, fork,
io_uring and user namespaces open, and seccomp leaves every file of the user readable, `/proc/<parent>/mem` included.
Inside, code may do what it likes, ctypes too. What remains: bugs of the kernel behind the allowed calls, CPU side
channels, stat() telling whether a path exists, and threads by the thousand unless a cgroup sets pids.max.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import stat
import struct
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

if sys.platform != "win32":  # the host imports this file too, to ask `available()`
    import resource


@dataclass(frozen=True)
class Policy:
    """What one worker may do; plain values, so that it travels as JSON. `None` leaves a limit as it is."""

    read: tuple[str, ...] = ()
    """Files, and folders with all beneath. A shared library that an extension links to must be here or loaded."""
    address_space: int | None = None
    """RLIMIT_AS, bytes. Without MALLOC_ARENA_MAX=2 and `threading.stack_size` some fifteen threads exhaust 1 GiB."""
    cpu_seconds: int | None = None
    files: int = 256
    strict: bool = False
    """No call that takes a path, for kernels without Landlock: whatever is to be imported is imported before."""
    file_size: int = 0
    """RLIMIT_FSIZE, bytes of one file; above 0 only with a ruleset that has a folder to write in."""


@dataclass(frozen=True)
class Probe:
    """What the kernel offers: `arch` is None where no table is written out below, `landlock` is the ABI, 0 for none."""

    arch: str | None
    landlock: int
    seccomp: bool


@dataclass(frozen=True)
class Arch:
    """AUDIT_ARCH_* of linux/audit.h, and the numbers of the calls by name."""

    audit: int
    calls: dict[str, int]


@dataclass(frozen=True)
class Program:
    """A compiled filter; `own_pid` are the offsets that take the child's process id; `writing`: into a scratch folder."""

    strict: bool
    code: bytes
    own_pid: tuple[int, ...]
    writing: bool = False

    def for_pid(self, pid: int) -> bytes:
        """The filter with the process id filled in: only the child knows it, and compiling there would cost more."""
        code = bytearray(self.code)
        for offset in self.own_pid:
            struct.pack_into("=I", code, offset, pid)
        return bytes(code)


# name, x86_64 number, aarch64 number ("-": the generic table has no such call). Source: asm/unistd_64.h and
# asm-generic/unistd.h of the kernel.
_PLAIN = """
read 0 63 | write 1 64 | readv 19 65 | writev 20 66 | pread64 17 67 | preadv 295 69 | recvfrom 45 207 | recvmsg 47 212
sendmsg 46 211 | close 3 57 | fstat 5 80 | lseek 8 62 | poll 7 - | ppoll 271 73 | select 23 - | pselect6 270 72
epoll_create1 291 20 | epoll_ctl 233 21 | epoll_wait 232 - | epoll_pwait 281 22 | eventfd2 290 19 | pipe2 293 59
dup 32 23 | dup2 33 - | dup3 292 24 | getcwd 79 17 | ftruncate 77 46 | fadvise64 221 223 | umask 95 166
memfd_create 319 279 | munmap 11 215 | mremap 25 216 | madvise 28 233 | brk 12 214 | mincore 27 232 | msync 26 227
futex 202 98 | set_robust_list 273 99 | get_robust_list 274 100 | rseq 334 293 | arch_prctl 158 -
set_tid_address 218 96 | membarrier 324 283 | sched_yield 24 124 | sched_getaffinity 204 123 | restart_syscall 219 128
gettid 186 178 | getpid 39 172 | getppid 110 173 | getuid 102 174 | geteuid 107 175 | getgid 104 176 | getegid 108 177
getpgrp 111 - | getgroups 115 158 | sysinfo 99 179 | uname 63 160 | getrusage 98 165 | getrlimit 97 163
getrandom 318 278 | exit 60 93 | exit_group 231 94 | rt_sigaction 13 134 | rt_sigprocmask 14 135 | rt_sigreturn 15 139
sigaltstack 131 132 | rt_sigpending 127 136 | rt_sigtimedwait 128 137 | rt_sigsuspend 130 133 | alarm 37 -
setitimer 38 103 | getitimer 36 102 | pause 34 - | clock_gettime 228 113 | clock_getres 229 114
clock_nanosleep 230 115 | nanosleep 35 101 | gettimeofday 96 169 | time 201 - | times 100 153
"""
# Some releases of glibc spell fstat newfstatat: in strict mode os.fstat fails then, open(fd) and mmap get by without.
_PATHS = """
open 2 - | openat 257 56 | stat 4 - | lstat 6 - | newfstatat 262 79 | statx 332 291 | access 21 - | faccessat 269 48
faccessat2 439 439 | readlink 89 - | readlinkat 267 78 | getdents64 217 61
"""
# Allowed by argument, or called by this file.
_OTHERS = """
clone 56 220 | clone3 435 435 | ioctl 16 29 | fcntl 72 25 | prctl 157 167 | prlimit64 302 261 | kill 62 129
tgkill 234 131 | socketpair 53 199 | sendto 44 206 | mmap 9 222 | mprotect 10 226 | capset 126 91 | seccomp 317 277
landlock_create_ruleset 444 444 | landlock_add_rule 445 445 | landlock_restrict_self 446 446
"""


def _table(text: str, column: int) -> dict[str, int]:
    rows = (entry.split() for entry in text.replace("\n", "|").split("|") if entry)
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}


# Only where there is a folder to write in, beneath which Landlock holds them. No call removes a name: what has none is not
# seen by who measures the folder. No memfds: they are as large as a file may be, and no limit counts them.
_WRITING = """
mkdir 83 - | mkdirat 258 34 | renameat2 316 276 | fsync 74 82 | fdatasync 75 83
"""
_ALL = _PLAIN + _PATHS + _OTHERS + _WRITING
ARCHES = {"x86_64": Arch(0xC000003E, _table(_ALL, 1)), "aarch64": Arch(0xC00000B7, _table(_ALL, 2))}


def _machine() -> str | None:
    """This process' architecture; a 32-bit Python on a 64-bit kernel has other call numbers."""
    if sys.platform != "linux" or sys.maxsize < 2**32:
        return None
    return machine if (machine := os.uname().machine) in ARCHES else None


@functools.cache
def _here() -> tuple[Arch, Callable[..., int]]:
    machine = _machine()
    if machine is None:
        raise OSError(errno.ENOSYS, "no system call table for this platform")
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long
    return ARCHES[machine], syscall


def _syscall(name: str, *arguments: int) -> int:
    arch, syscall = _here()
    # c_long for each: ctypes passes a bare int as 32 bits, which leaves the upper half of the register undefined.
    return syscall(*(ctypes.c_long(number) for number in (arch.calls[name], *arguments)))


def _must(what: str, name: str, *arguments: int) -> int:
    if (result := _syscall(name, *arguments)) < 0:
        raise OSError(code := ctypes.get_errno(), f"{what}: {os.strerror(code)}")
    return result


def available() -> Probe:
    """Ask the kernel without changing this process (man landlock_create_ruleset(2), seccomp(2))."""
    machine = _machine()
    if machine is None:
        return Probe(None, 0, False)
    # LANDLOCK_CREATE_RULESET_VERSION = 1; ENOSYS where not built (gVisor too), EOPNOTSUPP where switched off at boot.
    landlock = max(_syscall("landlock_create_ruleset", 0, 0, 1), 0)
    action = ctypes.c_uint32(_KILL)  # the youngest of the actions the filter uses, asked by SECCOMP_GET_ACTION_AVAIL
    return Probe(machine, landlock, _syscall("seccomp", 2, 0, ctypes.addressof(action)) == 0)


def _handled(abi: int) -> tuple[int, int, int]:
    """Every right the ABI knows: file system, network, scope (landlock.rst). What is not handled stays allowed."""
    bits = 13 + (abi >= 2) + (abi >= 3)  # refer, truncate
    files = (1 << bits) - 1 | ((1 << 15) if abi >= 5 else 0)  # ioctl on devices
    return files, 0b11 if abi >= 4 else 0, 0b11 if abi >= 6 else 0  # TCP bind, connect; abstract sockets, signals


def landlock_ruleset(read: Iterable[str], folders: Iterable[int] = (), scratch: int | None = None) -> int:
    """A descriptor of rules: read beneath these paths, and these open folders, and nothing else, not even execute. A missing
    path is skipped. ``scratch``: an open folder beneath which files and folders can be made, written and renamed as well.

    Made once, before forking: it costs milliseconds. Source: Documentation/userspace-api/landlock.rst.
    """
    abi = max(_must("Landlock", "landlock_create_ruleset", 0, 0, 1), 1)
    # An older kernel takes the longer struct as long as the fields it does not know are zero.
    attributes = ctypes.create_string_buffer(struct.pack("=QQQ", *_handled(abi)), 24)
    ruleset = _must("Landlock", "landlock_create_ruleset", ctypes.addressof(attributes), 24, 0)
    try:
        for path in read:
            _allow_read(ruleset, path)
        for fd in folders:
            _allow_beneath(ruleset, fd, "an input folder")
        if scratch is not None:
            _allow_beneath(ruleset, scratch, "the scratch folder", _SCRATCH | (_TRUNCATE if abi >= 3 else 0))
    except BaseException:
        os.close(ruleset)
        raise
    return ruleset


def _allow_read(ruleset: int, path: str) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        _allow_beneath(ruleset, fd, path)
    finally:
        os.close(fd)


# LANDLOCK_ACCESS_FS_: WRITE_FILE; REMOVE_DIR and REMOVE_FILE, which renaming takes; MAKE_DIR, MAKE_REG. Not MAKE_SYM, nor
# REFER: nothing is moved from one folder to another, which who measures them might then miss.
_SCRATCH, _TRUNCATE = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8, 1 << 14


def _allow_beneath(ruleset: int, fd: int, what: str, more: int = 0) -> None:
    folder = stat.S_ISDIR(os.fstat(fd).st_mode)  # a folder's right on a file is EINVAL
    rule = struct.pack("=Qi", (1 << 2) | (folder << 3) | more, fd)  # LANDLOCK_ACCESS_FS_READ_FILE, _READ_DIR
    beneath = ctypes.create_string_buffer(rule, len(rule))
    _must("Landlock " + what, "landlock_add_rule", ruleset, 1, ctypes.addressof(beneath), 0)


def landlock_restrict(ruleset: int) -> None:
    """Put this thread and what it starts under the rules; needs `no_new_privs` (man landlock_restrict_self(2))."""
    _must("Landlock", "landlock_restrict_self", ruleset, 0)


# seccomp: classic BPF over struct seccomp_data {nr, arch, instruction pointer, six 64-bit arguments}. Source:
# Documentation/userspace-api/seccomp_filter.rst, linux/filter.h.
_LOAD, _RETURN, _EQUAL, _AT_LEAST, _AND = 0x20, 0x06, 0x15, 0x35, 0x54
_KILL, _WORD = 0x80000000, 0xFFFFFFFF
_OWN_PID = 0x7FFFFFFF  # placeholder: no process has this id, so a filter that was never patched refuses
Code = list[tuple[int, int, int, int]]  # struct sock_filter: operation, jump if true, jump if false, immediate
_allow: Code = [(_RETURN, 0, 0, 0x7FFF0000)]
_kill: Code = [(_RETURN, 0, 0, _KILL)]


def _refuse(code: int = errno.EPERM) -> Code:
    return [(_RETURN, 0, 0, 0x00050000 | code)]


def _argument(index: int, mask: int = _WORD, half: int = 0) -> Code:
    return [(_LOAD, 0, 0, 16 + 8 * index + 4 * half), (_AND, 0, 0, mask)]  # both architectures are little-endian


def _when(value: int, then: Code) -> Code:
    return [(_EQUAL, 0, len(then), value), *then]  # each case ends in its own answer, so that jumps stay short


def _allow_if(index: int, *values: int, mask: int = _WORD) -> Code:
    return _argument(index, mask) + [step for value in values for step in _when(value, _allow)]


def _require(index: int, value: int, mask: int = _WORD) -> Code:
    return [*_argument(index, mask), (_EQUAL, 1, 0, value), *_refuse()]


def _require_null(index: int) -> Code:
    return [step for half in (0, 1) for step in (*_argument(index, half=half), (_EQUAL, 1, 0, 0), *_refuse())]


def _opening(flags: int) -> Code:
    """An open whose flags are that argument: O_TRUNC only for writing, which Landlock holds at any ABI (truncating as such
    from the third on), and no O_TMPFILE, a file without a name.
    """
    unwritten = [step for mode in (0, 3) for step in _when(0x200 | mode, _refuse())]
    return [*_argument(flags, mask=0x203), *unwritten, *_require(flags, 0, mask=0x400000), *_allow]


def _filters(*, writing: bool = False) -> dict[str, Code]:
    """Calls whose arguments decide. What is compared lies in the lower 32 bits, except for the two pointers."""
    return {
        # With CLONE_THREAD and without CLONE_NEW*, CLONE_PIDFD, CLONE_PTRACE, CLONE_PARENT.
        "clone": _require(0, 0x10000, mask=0x10000 | 0x7E02B000) + _allow,
        # Its flags are behind a pointer; glibc falls back to clone on ENOSYS and on nothing else.
        "clone3": _refuse(errno.ENOSYS),
        # FIONBIO (asyncio), FIOCLEX, FIONREAD. ENOTTY for the rest: isatty() answers False instead of raising.
        "ioctl": _allow_if(1, 0x5421, 0x5451, 0x541B) + _refuse(errno.ENOTTY),
        # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC, F_ADD_SEALS, F_GET_SEALS; F_SETFL without O_ASYNC. Not
        # F_SETOWN and F_SETSIG: with those the kernel sends signals on the worker's behalf, past the filter on kill.
        "fcntl": _allow_if(1, 0, 1, 2, 3, 1030, 1033, 1034) + _require(1, 4) + _require(2, 0, mask=0x2000) + _allow,
        # PR_SET_NAME, PR_GET_NAME; EINVAL is what a kernel says to an option it does not know.
        "prctl": _allow_if(0, 15, 16) + _refuse(errno.EINVAL),
        "prlimit64": _require(0, 0) + _require_null(2) + _allow,  # read one's own
        "kill": _require(0, _OWN_PID) + _allow,
        "tgkill": _require(0, _OWN_PID) + _allow,
        # AF_UNIX SOCK_STREAM, whatever CLOEXEC and NONBLOCK say: a datagram pair can send to the host's sockets.
        "socketpair": _require(0, 1) + _require(1, 1, mask=_WORD & ~0x80800) + _allow,
        "sendto": _require_null(4) + _allow,  # no address
        # dlopen maps files executable; anonymous executable memory is for JITs and ctypes callbacks. Who can write files
        # maps none: what may be imported is mapped before.
        "mmap": _allow_if(2, 0, mask=0x4) + (_refuse() if writing else _require(3, 0, mask=0x20) + _allow),
        "mprotect": _require(2, 0, mask=0x4) + _allow,
    }


def _more_filters(*, strict: bool, writing: bool) -> dict[str, Code]:
    """The same for calls that take a path."""
    opening = {} if strict else {"open": _opening(1), "openat": _opening(2)}
    if not writing:
        return opening
    allowed = dict.fromkeys(_table(_WRITING, 1), _allow)
    # RENAME_NOREPLACE and nothing else: what is there stays there.
    return {**opening, **allowed, "renameat2": _require(4, 1) + _allow}


def seccomp_program(strict: bool, arch: Arch | None = None, *, writing: bool = False) -> Program:
    """Compile the allow-list, for this machine unless told otherwise: kill a foreign architecture, refuse the rest.

    ``writing``: for a worker that has a scratch folder.
    """
    arch = arch or _here()[0]
    code: Code = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, arch.audit), *_kill, (_LOAD, 0, 0, 0)]
    if arch is ARCHES["x86_64"]:
        # The x32 ABI shares the audit constant: its numbers would get past the list (seccomp_filter.rst, Pitfalls).
        code += [(_AT_LEAST, 0, 1, 0x40000000), *_kill]
    filters = {**_filters(writing=writing), **_more_filters(strict=strict, writing=writing)}
    for name in _table(_PLAIN if strict else _PLAIN + _PATHS, 1):
        if name in arch.calls and name not in filters and not (writing and name == "memfd_create"):
            code += _when(arch.calls[name], _allow)
    for name, steps in filters.items():
        if name in arch.calls:
            code += _when(arch.calls[name], steps)
    code += _refuse()
    own_pid = tuple(8 * index + 4 for index, step in enumerate(code) if step[3] == _OWN_PID)
    return Program(strict, b"".join(struct.pack("=HBBI", *step) for step in code), own_pid, writing)


def seccomp_restrict(program: Program) -> None:
    """Install the filter for this thread and what it starts; needs `no_new_privs`, and cannot be undone."""
    code = program.for_pid(os.getpid())
    buffer = ctypes.create_string_buffer(code, len(code))
    fprog = ctypes.create_string_buffer(struct.pack("=HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer)), 16)
    _must("seccomp", "seccomp", 1, 0, ctypes.addressof(fprog))  # SECCOMP_SET_MODE_FILTER


def limits(policy: Policy) -> None:
    """rlimits, soft and hard, only ever lowered (man setrlimit(2)). CPU leaves a second from SIGXCPU to SIGKILL.

    FSIZE 0 also stops memfds, which RLIMIT_AS does not count, and output to a regular file as standard error.
    """
    wanted = {resource.RLIMIT_FSIZE: policy.file_size, resource.RLIMIT_CORE: 0, resource.RLIMIT_NOFILE: policy.files}
    wanted |= {resource.RLIMIT_AS: policy.address_space, resource.RLIMIT_CPU: policy.cpu_seconds}
    for kind, value in wanted.items():
        if value is not None:
            # Above its hard limit a process may not go, and a lower one that is already there is the stricter promise.
            soft, hard = (sys.maxsize if old == resource.RLIM_INFINITY else old for old in resource.getrlimit(kind))
            resource.setrlimit(kind, (min(value, soft), min(value + (kind == resource.RLIMIT_CPU), hard)))


def drop_bounding_set() -> None:
    """No process that this one starts can gain a capability, where CAP_SETPCAP permits. In the zygote: once, for all."""
    for capability in range(64):
        if _syscall("prctl", 24, capability, 0, 0, 0) < 0:  # PR_CAPBSET_DROP: EPERM, or EINVAL past the last one
            break


def drop_capabilities() -> None:
    """All sets to zero (man capabilities(7)), but for the bounding set: Landlock takes none away."""
    _syscall("prctl", 47, 4, 0, 0, 0)  # PR_CAP_AMBIENT_CLEAR_ALL; the kernel may lack it, capset clears them anyway
    header = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0), 8)  # _LINUX_CAPABILITY_VERSION_3
    nothing = ctypes.create_string_buffer(24)
    _must("capabilities", "capset", ctypes.addressof(header), ctypes.addressof(nothing))


def not_dumpable() -> None:
    """No core, no ptrace, and `/proc/<pid>` belongs to root (man PR_SET_DUMPABLE(2const)); of use in the zygote too."""
    _must("dumpable", "prctl", 4, 0, 0, 0, 0)


def no_new_privs() -> None:
    """What lets an ordinary user install both filters (Documentation/userspace-api/no_new_privs.rst)."""
    _must("no_new_privs", "prctl", 38, 1, 0, 0, 0)


def parent_death_signal(parent: int) -> None:
    """SIGKILL when the *thread* that forked goes (man PR_SET_PDEATHSIG(2const)); `parent` is its process id.

    Raises ProcessLookupError if the parent went before this call, when no signal would ever come.
    """
    _must("parent death signal", "prctl", 1, 9, 0, 0, 0)
    if os.getppid() != parent:
        raise ProcessLookupError(errno.ESRCH, "the parent is gone")


def apply(policy: Policy, ruleset_fd: int | None, program: Program) -> list[str]:
    """Harden this process, for good, and name the layers that hold. To be called once, before there is any thread.

    Closes `ruleset_fd`, which only a strict policy may leave out. Raises OSError or ValueError if a layer fails: the
    process is then half hardened and must exit.
    """
    if not program.strict and (policy.strict or ruleset_fd is None):
        raise OSError(errno.EINVAL, "without Landlock, or when strict, the filter must be strict")
    if policy.file_size and not program.writing:
        raise OSError(errno.EINVAL, "where files can be written, the filter must be the one for that")
    limits(policy)
    drop_capabilities()
    not_dumpable()
    no_new_privs()
    layers = ["rlimits", "capabilities", "not_dumpable", "no_new_privs"]
    if ruleset_fd is not None:
        landlock_restrict(ruleset_fd)
        os.close(ruleset_fd)
        layers.append("landlock")
    seccomp_restrict(program)
    return [*layers, "seccomp"]
