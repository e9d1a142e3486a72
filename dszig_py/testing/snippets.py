"""The hostile cells, as data: category, name, code, and what must not happen besides the harm every witness notices.

A cell that gets something it must not get prints BREACH. Bombs are bounded; nothing is sent to anything but the
witness's own listeners; processes other than the witness's victim are only probed with signal 0.
"""

from __future__ import annotations

from dszig_py.testing.witness import Judge, Snippet, bounded, kept, no_submission, nothing_more

__all__ = ["PRELUDE", "SNIPPETS"]

PRELUDE = r'''
import ctypes, errno, gc, json, os, signal, socket, stat, struct, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
TABLE = """fork 57 -1|vfork 58 -1|clone 56 220|clone3 435 435|execve 59 221|execveat 322 281|ptrace 101 117
process_vm_readv 310 270|process_vm_writev 311 271|pidfd_open 434 434|pidfd_getfd 438 438|pidfd_send_signal 424 424
tgkill 234 131|tkill 200 130|rt_sigqueueinfo 129 138|unshare 272 97|setns 308 268|mount 165 40|umount2 166 39
keyctl 250 219|add_key 248 217|bpf 321 280|perf_event_open 298 241|userfaultfd 323 282|io_uring_setup 425 425
open_by_handle_at 304 265|memfd_secret 447 447|openat2 437 437|chroot 161 51|pivot_root 155 41|prctl 157 167
seccomp 317 277|setuid 105 146|prlimit64 302 261|kcmp 312 272|fanotify_init 300 262|inotify_init1 294 26
syslog 103 116|mknodat 259 33|shmget 29 194|msgget 68 186|semget 64 190|mq_open 240 180|timer_create 222 107
personality 135 92|sched_setaffinity 203 122|socket 41 198|kill 62 129|setsid 112 157|sendmmsg 307 269"""
NR = {n: int(v[os.uname().machine == "aarch64"]) for n, *v in (row.split() for row in TABLE.replace("\n", "|").split("|"))}

def syscall(name, *args):
    if NR[name] < 0:
        raise OSError(errno.ENOSYS, name)
    result = libc.syscall(*map(ctypes.c_long, (NR[name], *args)))
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result

def attempt(what, function, *args, **kwargs):
    "Say so where it goes well."
    try:
        got = function(*args, **kwargs)
    except BaseException as error:
        print(what, type(error).__name__, str(error)[:80])
    else:
        print("BREACH", what, repr(got)[:200])

def spawn(what, function):
    "A call that returns twice when it works."
    try:
        pid = function()
    except BaseException as error:
        print(what, type(error).__name__, error)
        return
    if pid == 0:
        os._exit(0)
    print("BREACH" if pid > 0 else "refused", what, pid)

def read(path):
    with open(path, "rb") as file:
        return file.read(200)

def sockets():
    "The descriptors of this process that are sockets."
    found = []
    for fd in range(256):
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                found.append(fd)
        except OSError:
            pass
    return found

def frame(message):
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    return struct.pack(">I", len(body)) + body

def forge(*messages):
    for fd in sockets():
        data = b"".join(map(frame, messages))
        while data:
            data = data[os.write(fd, data):]
'''

_GOOD_DONE = '"t": "done", "x": 2, "head": "", "tail": "", "chars": 0, "names": [], "value": None, "error": ""'


def _all(category: str, harm: Judge, seconds: float, snippets: dict[str, str]) -> tuple[Snippet, ...]:
    return tuple(Snippet(category, name, code.strip(), harm, seconds) for name, code in snippets.items())


_FILES = _all(
    "files",
    kept,
    10,
    {
        "read the canary": "attempt('read', read, canary)",
        "read system files": "for p in ('/etc/passwd', '/etc/shadow', '/etc/hostname', '/etc/ssl/openssl.cnf'):\n"
        "    attempt(p, read, p)",
        "read the homes": "for p in ('~/.ssh/id_rsa', '~/.ssh/authorized_keys', '~/.bashrc', '~/.aws/credentials',\n"
        "          '~/.netrc', '/root/.bashrc', '/home'):\n    attempt(p, read, os.path.expanduser(p))",
        "list folders": "for p in ('/', '/etc', '/tmp', '/home', '/proc', '/sys', '/dev', '/run', '/var/log', folder):\n"
        "    attempt(p, os.listdir, p)\n    attempt(p, lambda: list(os.scandir(p)))",
        "read by ctypes": "fd = libc.open(canary.encode(), 0)\nif fd >= 0: print('BREACH open', os.read(fd, 50))",
        "read by openat2 and handles": "attempt('openat2', syscall, 'openat2', -100, 0, 0, 0)\n"
        "attempt('handle', syscall, 'open_by_handle_at', -100, 0, 0)",
        "read through links and dots": "attempt('up', read, '/usr/lib/python3/../../../' + canary)\n"
        "attempt('fd', read, '/proc/self/root' + canary)\nattempt('cwd', read, '/proc/self/cwd' + canary)\n"
        "attempt('own', read, os.__file__.rsplit('/', 1)[0] + '/../../../../../../..' + canary)",
        "map a file": "import mmap\ndef run():\n    fd = os.open(canary, os.O_RDONLY)\n"
        "    return mmap.mmap(fd, 0, access=mmap.ACCESS_READ)[:50]\nattempt('mmap', run)",
        "import from anywhere": "sys.path[:0] = [folder, '/tmp', '/work', '/usr/lib/python3/dist-packages']\n"
        "import importlib\nimportlib.invalidate_caches()\n"
        "for name in ('pip', 'setuptools', 'litellm', 'dszig_py', 'pytest'):\n"
        "    attempt(name, importlib.import_module, name)",
        "read with linecache, zipfile, sqlite": "import linecache, zipfile, sqlite3\n"
        "if linecache.getlines(canary): print('BREACH', linecache.getlines(canary))\n"
        "attempt('zip', zipfile.ZipFile, canary)\n"
        "attempt('sqlite', lambda: sqlite3.connect('file:' + canary, uri=True).execute('select 1 from sqlite_master'))",
        "write anywhere": "for p in (folder, '/tmp', '/dev/shm', '/var/tmp', '/run', '/', os.path.dirname(os.__file__)):\n"
        "    attempt(p, open, p + '/dszig-written', 'w')\n    attempt(p, os.open, p, os.O_TMPFILE | os.O_RDWR)",
        "write over the canary": "attempt('w', open, canary, 'w')\nattempt('a', open, canary, 'a')\n"
        "attempt('r+', open, canary, 'r+')\nattempt('truncate', os.truncate, canary, 0)",
        "make folders, nodes, links": "attempt('mkdir', os.mkdir, folder + '/made')\n"
        "attempt('symlink', os.symlink, '/etc/passwd', folder + '/made')\n"
        "attempt('link', os.link, canary, folder + '/made')\nattempt('fifo', os.mkfifo, folder + '/made')\n"
        "attempt('node', syscall, 'mknodat', -100, 0, 0, 0)",
        "remove and rename": "attempt('unlink', os.unlink, canary)\nattempt('rename', os.rename, canary, folder + '/x')\n"
        "attempt('replace', os.replace, canary, folder + '/x')\nattempt('rmdir', os.rmdir, folder)\n"
        "import shutil\nattempt('rmtree', shutil.rmtree, folder)",
        "change modes, owners, times": "attempt('chmod', os.chmod, canary, 0o777)\n"
        "attempt('chown', os.chown, canary, 12, 12)\nattempt('utime', os.utime, canary, (1, 1))\n"
        "attempt('xattr', os.setxattr, canary, 'user.x', b'1')",
        "temporary files": "import tempfile\nattempt('file', tempfile.TemporaryFile)\nattempt('named', tempfile.mkstemp)\n"
        "attempt('dir', tempfile.mkdtemp)",
        "fill a memfd": "fd = os.memfd_create('x')\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "attempt('write', os.write, fd, b'x' * 1_000_000)\nattempt('truncate', os.ftruncate, fd, 1 << 40)",
        "change root and mounts": "attempt('chroot', syscall, 'chroot', 0)\nattempt('pivot', syscall, 'pivot_root', 0, 0)\n"
        "attempt('chdir', os.chdir, '/tmp')\nattempt('umount', syscall, 'umount2', 0, 0)",
    },
)

_SECRETS = _all(
    "secrets",
    kept,
    10,
    {
        "the environment": "for name in (secret_name, 'PATH', 'HOME', 'OPENAI_API_KEY', 'USER'):\n"
        "    if name in os.environ: print('BREACH', name, os.environ[name])",
        "the environment in C": "libc.getenv.restype = ctypes.c_char_p\ngot = libc.getenv(secret_name.encode())\n"
        "if got: print('BREACH', got)",
        "environ of the parents": "for pid in ('self', os.getppid(), host_pid, victim_pid):\n"
        "    attempt(pid, read, f'/proc/{pid}/environ')\n    attempt(pid, read, f'/proc/{pid}/cmdline')",
        "memory of the parents": "for pid in ('self', os.getppid(), host_pid, victim_pid):\n"
        "    attempt(pid, open, f'/proc/{pid}/mem', 'r+b')\n    attempt(pid, open, f'/proc/{pid}/mem', 'rb')\n"
        "    attempt(pid, read, f'/proc/{pid}/maps')",
        "descriptors of the parents": "for pid in ('self', os.getppid(), host_pid):\n"
        "    attempt(pid, os.listdir, f'/proc/{pid}/fd')\n"
        "    for fd in range(30):\n        attempt(fd, read, f'/proc/{pid}/fd/{fd}')",
        "own descriptors": "for fd in range(3, 256):\n"
        "    try:\n        mode = os.fstat(fd).st_mode\n    except OSError:\n        continue\n"
        "    if not stat.S_ISSOCK(mode): print('BREACH', fd, oct(mode))\n"
        "if len(sockets()) > 1: print('BREACH', sockets())",
        "own memory": "found = [o for o in gc.get_objects() if isinstance(o, dict) and secret_name in map(str, o)\n"
        "         and o is not globals()]\n"
        "if any('DSZIG_TEST' in str(v) for o in found for v in [o.get(secret_name)]): print('BREACH', found)",
        "kernel keys and log": "attempt('keyctl', syscall, 'keyctl', 0, -3, 1)\n"
        "attempt('add_key', syscall, 'add_key', 0, 0, 0, 0, -3)\nattempt('syslog', syscall, 'syslog', 10, 0, 0)",
    },
)

_PROCESS = _all(
    "process",
    kept,
    10,
    {
        "ptrace": "for pid in (os.getppid(), victim_pid):\n    attempt('attach', syscall, 'ptrace', 16, pid, 0, 0)\n"
        "    attempt('seize', syscall, 'ptrace', 0x4206, pid, 0, 0)\nattempt('me', syscall, 'ptrace', 0, 0, 0, 0)",
        "process_vm": "b = ctypes.create_string_buffer(64)\nlocal = (ctypes.c_ulong * 2)(ctypes.addressof(b), 64)\n"
        "far = (ctypes.c_ulong * 2)(0x400000, 64)\n"
        "for pid in (os.getppid(), victim_pid):\n    for name in ('process_vm_readv', 'process_vm_writev'):\n"
        "        attempt(name, syscall, name, pid, ctypes.addressof(local), 1, ctypes.addressof(far), 1, 0)",
        "pidfd": "for pid in (os.getppid(), victim_pid):\n    attempt('open', syscall, 'pidfd_open', pid, 0)\n"
        "attempt('getfd', syscall, 'pidfd_getfd', 0, 0, 0)\nattempt('send', syscall, 'pidfd_send_signal', 0, 0, 0, 0)",
        "kcmp": "attempt('kcmp', syscall, 'kcmp', os.getpid(), os.getppid(), 0, 0, 0)",
        "limits of others": "import resource\nfor pid in (os.getppid(), victim_pid):\n"
        "    attempt('get', resource.prlimit, pid, resource.RLIMIT_NOFILE)\n"
        "    attempt('set', resource.prlimit, pid, resource.RLIMIT_CPU, (1, 1))",
        "own limits": "import resource\n"
        "for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_AS, resource.RLIMIT_NOFILE, resource.RLIMIT_CORE):\n"
        "    attempt(kind, resource.setrlimit, kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))",
        "priority and affinity of others": "attempt('nice', os.setpriority, os.PRIO_PROCESS, victim_pid, 10)\n"
        "attempt('affinity', os.sched_setaffinity, victim_pid, {0})",
        "identity": "attempt('setuid', os.setuid, 0)\nattempt('setgid', os.setgid, 0)\nattempt('setsid', os.setsid)\n"
        "attempt('groups', os.setgroups, [0])\nattempt('raw', syscall, 'setuid', 0)",
        "privileges back": "attempt('dumpable', syscall, 'prctl', 4, 1, 0, 0, 0)\n"
        "attempt('pdeathsig', syscall, 'prctl', 1, 0, 0, 0, 0)\nattempt('ptracer', syscall, 'prctl', 0x59616d61, -1, 0, 0, 0)\n"
        "attempt('ambient', syscall, 'prctl', 47, 2, 0, 0, 0)\nattempt('seccomp', syscall, 'seccomp', 0, 0, 0)",
        "namespaces": "for flag in (0x10000000, 0x40000000, 0x20000000, 0x20000, 0x8000000, 0x4000000):\n"
        "    attempt(hex(flag), syscall, 'unshare', flag)\nattempt('setns', syscall, 'setns', 3, 0)",
        "mount": "attempt('mount', libc_mount := (lambda: syscall('mount', 0, 0, 0, 0, 0)))",
        "odd kernel doors": "buffer = ctypes.create_string_buffer(256)\nat = ctypes.addressof(buffer)\n"
        "for name, args in {'io_uring_setup': (8, at), 'bpf': (0, at, 72), 'userfaultfd': (1,), 'memfd_secret': (0,),\n"
        "        'perf_event_open': (at, 0, -1, -1, 0), 'fanotify_init': (0, 0), 'inotify_init1': (0,),\n"
        "        'shmget': (0, 4096, 0o1600), 'msgget': (0, 0o1600), 'semget': (0, 1, 0o1600), 'mq_open': (at, 0o102, 0o600, 0),\n"
        "        'timer_create': (0, 0, at), 'personality': (0x0400000,)}.items():\n    attempt(name, syscall, name, *args)",
    },
)

_NETWORK = _all(
    "network",
    kept,
    10,
    {
        "tcp": "attempt('tcp', socket.create_connection, ('127.0.0.1', tcp_port), 2)",
        "udp": "def run():\n    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', udp_port))\n"
        "attempt('udp', run)",
        "every family": "for family in range(46):\n    for kind in (1, 2, 3, 5):\n"
        "        attempt((family, kind), syscall, 'socket', family, kind, 0)",
        "unix stream by path": "def run():\n    s = socket.socket(socket.AF_UNIX)\n    s.connect(stream_path)\n"
        "    s.send(b'x')\nattempt('stream', run)",
        "unix datagram pair": "def run():\n    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "    a.sendto(b'x', datagram_path)\n    a.sendto(b'x', abstract)\nattempt('datagram', run)",
        "unix stream pair, sendto": "a, b = socket.socketpair()\nattempt('path', a.sendto, b'x', datagram_path)\n"
        "attempt('abstract', a.sendto, b'x', abstract)\nattempt('connect', a.connect, datagram_path)",
        "sendmsg with an address": "a, b = socket.socketpair()\n"
        "attempt('sendmsg', a.sendmsg, [b'x'], [], 0, abstract)\n"
        "attempt('on the host socket', lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0,\n"
        "        fileno=os.dup(sockets()[0])).sendmsg([b''], [], 0, datagram_path))",
        "netlink, packet, vsock": "for family in (16, 17, 40, 38, 31, 29, 44):\n"
        "    attempt(family, socket.socket, family, socket.SOCK_RAW)\n    attempt(family, socket.socket, family, socket.SOCK_DGRAM)",
        "names": "attempt('localhost', socket.getaddrinfo, 'example.invalid', 80)\n"
        "attempt('host', socket.gethostbyname, 'example.invalid')",
        "clients of the standard library": "import urllib.request, http.client, ftplib, asyncio\n"
        "attempt('urllib', urllib.request.urlopen, f'http://127.0.0.1:{tcp_port}/', timeout=2)\n"
        "attempt('file', urllib.request.urlopen, 'file://' + canary)\n"
        "c = http.client.HTTPConnection('127.0.0.1', tcp_port, timeout=2)\nattempt('http', c.request, 'GET', '/')\n"
        "attempt('asyncio', lambda: asyncio.run(asyncio.open_connection('127.0.0.1', tcp_port)))",
        "listen": "attempt('listen', socket.create_server, ('127.0.0.1', 0))\n"
        "a, b = socket.socketpair()\nattempt('bind', a.bind, '')\nattempt('listen', a.listen)",
        "pass descriptors to the host": "attempt('none', lambda: 1 / 0)\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=os.dup(sockets()[0]))\n"
        "body = json.dumps({'t': 'call', 'x': 2, 'id': 10**6, 'name': 'echo', 'args': [1], 'kwargs': {}}).encode()\n"
        "socket.send_fds(s, [struct.pack('>I', len(body)) + body], [0, 1, 2] * 20)",
    },
)

_EXEC = _all(
    "exec",
    kept,
    10,
    {
        "fork": "spawn('fork', os.fork)\nspawn('libc', libc.fork)" + "\nspawn('raw', lambda: syscall('fork'))",
        "vfork": "spawn('vfork', lambda: syscall('vfork'))",
        "clone": "for flags in (17, 0x11, 0x4000 | 17, 0x100 | 17, 0x8000 | 17, 0x2000 | 17, 0x00010000 | 0x2000):\n"
        "    spawn(hex(flags), lambda: syscall('clone', flags, 0, 0, 0, 0))",
        "clone3": "args = (ctypes.c_ulonglong * 11)(0, 0, 0, 0, 17)\n"
        "spawn('clone3', lambda: syscall('clone3', ctypes.addressof(args), 88))",
        "posix_spawn": "attempt('spawn', os.posix_spawn, '/bin/true', ['true'], {})\n"
        "attempt('spawnp', os.posix_spawnp, 'true', ['true'], {})",
        "execve": "attempt('execve', os.execve, '/bin/true', ['true'], {})\n"
        "attempt('python', os.execv, sys.executable, ['python', '-c', ''])\n"
        "fd = os.memfd_create('x')\nattempt('fexecve', os.execve, fd, ['x'], {})\n"
        "attempt('execveat', syscall, 'execveat', -100, 0, 0, 0, 0)",
        "subprocess": "import subprocess\nattempt('run', subprocess.run, ['true'])\n"
        "attempt('shell', subprocess.check_output, 'id', shell=True)\nattempt('popen', os.popen, 'id')\n"
        "if os.system('true') == 0: print('BREACH system')",
        "libc system and popen": "if libc.system(b'true') == 0: print('BREACH system')\n"
        "libc.popen.restype = ctypes.c_void_p\nif libc.popen(b'true', b'r'): print('BREACH popen')",
        "multiprocessing": "import multiprocessing\nfor kind in ('fork', 'spawn', 'forkserver'):\n"
        "    def run():\n        c = multiprocessing.get_context(kind)\n        p = c.Process(target=print)\n        p.start()\n"
        "    attempt(kind, run)\nattempt('pool', lambda: multiprocessing.Pool(1))",
        "process pool": "from concurrent.futures import ProcessPoolExecutor\n"
        "attempt('pool', lambda: ProcessPoolExecutor(1).submit(abs, 1).result(5))",
        "pty": "import pty\nspawn('fork', lambda: pty.fork()[0])\nattempt('open', pty.openpty)",
        "executable memory": "import mmap\nattempt('anonymous', mmap.mmap, -1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)\n"
        "m = mmap.mmap(-1, 4096)\nat = ctypes.addressof(ctypes.c_char.from_buffer(m))\n"
        "if libc.mprotect(ctypes.c_void_p(at), 4096, 5) == 0: print('BREACH mprotect')",
    },
)

_SIGNALS = _all(
    "signals",
    kept,
    10,
    {
        "kill the victim": "attempt('term', os.kill, victim_pid, signal.SIGTERM)\nattempt('9', os.kill, victim_pid, 9)\n"
        "attempt('libc', lambda: libc.kill(victim_pid, 9) and 1 / 0)",
        "probe everybody": "for pid in (host_pid, os.getppid(), victim_pid, -1, 0, 1, -os.getpgrp(), -host_pid):\n"
        "    attempt(pid, os.kill, pid, 0)\nattempt('group', os.killpg, os.getpgid(0), 0)",
        "threads of others": "attempt('tgkill', syscall, 'tgkill', victim_pid, victim_pid, 9)\n"
        "attempt('tkill', syscall, 'tkill', victim_pid, 9)\n"
        "attempt('queue', syscall, 'rt_sigqueueinfo', victim_pid, 9, ctypes.addressof(ctypes.create_string_buffer(128)))",
        "descriptors that signal": "import fcntl\na, b = socket.socketpair()\n"
        "attempt('owner', fcntl.fcntl, a, fcntl.F_SETOWN, victim_pid)\n"
        "attempt('signal', fcntl.fcntl, a, 10, signal.SIGKILL)\n"
        "attempt('owner_ex', fcntl.fcntl, a, 15, struct.pack('ii', 1, victim_pid))\n"
        "attempt('async', fcntl.fcntl, a, fcntl.F_SETFL, os.O_ASYNC)\n"
        "attempt('ioctl', fcntl.ioctl, a, 0x8901, struct.pack('i', victim_pid))\nb.send(b'x')",
        "terminals": "import fcntl, termios\nfor fd in (0, 1, 2):\n"
        "    attempt('push', fcntl.ioctl, fd, termios.TIOCSTI, b'x')\n    attempt('steal', fcntl.ioctl, fd, termios.TIOCSCTTY, 1)",
    },
)

_BOMBS = _all(
    "limits",
    nothing_more,
    2,
    {
        "forks": "for _ in range(100):\n    spawn('fork', os.fork)",
        "threads": "go = threading.Event()\ncount = 0\ntry:\n    for _ in range(5_000):\n"
        "        threading.Thread(target=go.wait, daemon=True).start()\n        count += 1\n"
        "except (RuntimeError, MemoryError) as error:\n    print(error)\nfinally:\n    go.set()\ncount",
        "memory, bit by bit": "hog = []\nwhile True:\n    hog.append(bytearray(20_000_000))",
        "memory, at once": "b'x' * (1 << 42)",
        "memory, eaten": "hog = []\nwhile True:\n    try:\n        hog.append(bytearray(1_000_000))\n    except MemoryError:\n        break\n"
        "len(hog) > 20_000 and print('BREACH', len(hog))",
        "memory, mapped": "import mmap\nfor size in (1 << 44, 1 << 40, 1 << 36):\n    attempt(size, mmap.mmap, -1, size)",
        "descriptors": "fds = []\ntry:\n    while True:\n        fds.append(os.dup(0))\nexcept OSError as error:\n    print(error)\n"
        "if len(fds) > 5000: print('BREACH', len(fds))",
        "pipes": "pairs = []\ntry:\n    while True:\n        pairs.append(socket.socketpair())\nexcept OSError as error:\n    print(error)",
        "recursion": "def f():\n    f()\nf()",
        "recursion without end": "sys.setrecursionlimit(10**8)\ndef f():\n    f()\nf()",
        "recursion in C": "sys.setrecursionlimit(10**6)\nx = []\nfor _ in range(200_000):\n    x = [x]\nrepr(x)",
        "the compiler": "eval('(' * 5_000 + ')' * 5_000)",
        "the parser": "compile('-' * 200_000 + '1', 'x', 'eval')",
        "a tower of tuples": "import marshal\nx = ()\nfor _ in range(100_000):\n    x = (x,)\nhash(x), x == x",
    },
)

_SLOW = _all(
    "limits",
    bounded,
    0.6,
    {
        "a regular expression": "import re\nre.match(r'(a+)+$', 'a' * 40 + 'b')",
        "a power": "10 ** (10 ** 8)",
        "a long text of digits": "sys.set_int_max_str_digits(0)\nstr(3 ** 3_000_000)",
        "a loop": "while True: pass",
        "a sleep": "time.sleep(1000)",
        "a deaf loop": "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "an ignored interrupt": "signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass",
        "a blocked interrupt": "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: pass",
        "a busy C call": "sum(range(10**12))",
        "a lock": "lock = threading.Lock()\nlock.acquire()\nlock.acquire()",
        "a coroutine": "import asyncio\nawait asyncio.sleep(1000)",
        "busy threads": "def spin():\n    while True: pass\nfor _ in range(8): threading.Thread(target=spin, daemon=True).start()\nspin()",
        "calls for ever": "while True:\n    try:\n        echo(1)\n    except BaseException: pass",
        "an iterator without end": "import itertools\necho(list(itertools.repeat(0)))",
        "stdout, one line": "print('x' * 100_000_000)",
        "stdout, many lines": "while True: print('x' * 1000)",
        "a huge text": "'x' * 200_000_000",
        "a huge error": "raise ValueError('x' * 100_000_000)",
        "a huge name": "globals()['n' * 10_000_000] = 1\n5",
        "a stopped process": "os.kill(os.getpid(), signal.SIGSTOP)",
    },
)

_EXIT = _all(
    "exit",
    nothing_more,
    3,
    {
        "_exit": "os._exit(0)",
        "abort": "os.abort()",
        "SystemExit": "raise SystemExit(3)",
        "exit and quit": "exit()",
        "KeyboardInterrupt": "raise KeyboardInterrupt",
        "GeneratorExit": "raise GeneratorExit",
        "BaseException": "raise BaseException",
        "segmentation fault": "ctypes.string_at(0)",
        "a broken object": "ctypes.memset(id(echo), 0xff, 64)\necho(1)",
        "SIGKILL": "os.kill(os.getpid(), 9)",
        "SIGSEGV in a thread": "threading.Thread(target=lambda: ctypes.string_at(8)).start()\ntime.sleep(1)",
        "close every descriptor": "os.closerange(0, 256)",
        "an exit function": "import atexit\natexit.register(lambda: time.sleep(1000))\nos._exit(1)",
        "an exit after the end": "threading.Thread(target=lambda: (time.sleep(0.05), os._exit(1))).start()",
        "an alarm": "signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)\ntime.sleep(1)",
        "an alarm that raises": "signal.signal(signal.SIGALRM, lambda *a: 1 / 0)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)\ntime.sleep(0.2)",
        "the C library's exit": "libc.exit(0)",
    },
)

_PROTOCOL = _all(
    "protocol",
    no_submission,
    1.2,
    {
        "garbage": "for fd in sockets(): os.write(fd, os.urandom(10_000))",
        "zeros": "for fd in sockets(): os.write(fd, bytes(10_000))",
        "a header of 4 GiB": "for fd in sockets(): os.write(fd, b'\\xff\\xff\\xff\\xff' + b'x' * 10_000)",
        "a header of the limit": "for fd in sockets(): os.write(fd, struct.pack('>I', 64 << 20) + b'x')",
        "half a frame, then nothing": "for fd in sockets(): os.write(fd, struct.pack('>I', 100) + b'{')\ntime.sleep(100)",
        "half a header": "for fd in sockets(): os.write(fd, b'\\0\\0')",
        "deep JSON": "forge(b'[' * 100_000 + b']' * 100_000)",
        "deep JSON in a call": 'forge(b\'{"t":"call","x":2,"id":1,"name":"echo","kwargs":{},"args":\' + b"[" * 900 + b"]" * 900 + b"}")\n'
        "time.sleep(0.2)",
        "NaN": 'forge(b\'{"t":"done","x":NaN}\')',
        "a huge number": "forge(b'{\"t\":\"done\",\"x\":' + b'9' * 100_000 + b'}')",
        "invalid UTF-8": 'forge(b\'{"t":"\\xff\\xfe"}\')',
        "not an object": "forge(b'[]', b'null', b'1', b'\"done\"')",
        "no type": "forge({'x': 2})",
        "an unknown type": "forge({'t': 'shutdown'})",
        "a type that is no text": "forge({'t': ['done']}, {'t': {}})",
        "a done without anything": "forge({'t': 'done', 'x': 2})",
        "a done of another cell": "forge({" + _GOOD_DONE.replace('"x": 2', '"x": 77') + "})",
        "a done with wrong types": "forge({" + _GOOD_DONE.replace('"value": None', '"value": {"a": [[]]}') + "})",
        "a done with hostile counts": "forge({" + _GOOD_DONE.replace('"chars": 0', '"chars": -10**30') + "})",
        "a done with a submission": "forge({"
        + _GOOD_DONE
        + ', "submission": {"answer": "forged"}, "submitted": True})',
        "a done twice": "forge({" + _GOOD_DONE + "}, {" + _GOOD_DONE + "})",
        "a done, and then on": "forge({"
        + _GOOD_DONE
        + "})\nwhile True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "ready again": "forge({'t': 'ready', 'layers': []})",
        "failed": "forge({'t': 'failed', 'error': 'x' * 1000})",
        "variables unasked": "forge({'t': 'vars', 'vars': {'a': 'b'}})",
        "host frames sent back": "forge({'t': 'reply', 'id': 1, 'ok': 1}, {'t': 'exec', 'x': 2, 'code': '1'})",
        "a call with odd parts": "forge({'t': 'call', 'x': 2, 'id': [1], 'name': {}, 'args': 5, 'kwargs': 'x'})",
        "a call without parts": "forge({'t': 'call'})",
        "a call with odd arguments": "forge(*({'t': 'call', 'x': 2, 'id': 9000 + i, 'name': n, 'args': a, 'kwargs': k}\n"
        "    for i, (n, a, k) in enumerate([('echo', 5, {}), ('echo', [], []), ('SUBMIT', {'a': 1}, [1]), ('SUBMIT', None, None),\n"
        "        ('echo', [{'~': ['record', 1]}], {}), ('echo', [{'~': 3}], {}), ('echo', [], {'~': ['dict', [[1, 2]]]}),\n"
        "        ('nap', ['nan'], {}), ('nap', [{'~': ['float', 'nan']}], {})])))\ntime.sleep(0.3)\necho(1)",
        "calls to the host's own names": "forge(*({'t': 'call', 'x': 2, 'id': 9000 + i, 'name': n, 'args': [], 'kwargs': {}}\n"
        "    for i, n in enumerate(['__class__', 'functions', 'call', 'submit', '__init__', 'host', 'eval', '', 'x' * 10**6])))\n"
        "time.sleep(0.3)",
        "keywords that reach further": "for extra in ({'self': 1}, {'name': 'x'}, {'api_key': 'x'}, {'base_url': 'http://x'}):\n"
        "    attempt(extra, echo, 1, **extra)",
        "a million tiny calls": "body = frame({'t': 'call', 'x': 2, 'id': 5, 'name': 'echo', 'args': ['x'], 'kwargs': {}}) * 10_000\n"
        "for _ in range(100):\n    for fd in sockets():\n        os.write(fd, body)",
        "calls that make the host write": "big = {'t': 'call', 'x': 2, 'id': 5, 'name': 'echo', 'args': ['x' * 200_000], 'kwargs': {}}\n"
        "for _ in range(2_000): forge(big)",
        "calls with values without number": 'forge(b\'{"t":"call","x":2,"id":5,"name":"echo","kwargs":{},"args":[\''
        " + b'[],' * 20_000_000 + b'[]]}')",
        "keys with one hash": "keys = [i * (2**61 - 1) for i in range(200_000)]\n"
        "forge({'t': 'call', 'x': 2, 'id': 5, 'name': 'echo', 'args': [{'~': ['set', keys]}], 'kwargs': {}})\ntime.sleep(1)",
        "numbers that explode": "forge(*({'t': 'call', 'x': 2, 'id': 5, 'name': 'SUBMIT', 'args': [{'~': n}], 'kwargs': {}}\n"
        "    for n in (['decimal', '1e999999999'], ['int', 'f' * 10_000_000], ['timedelta', 10**15, 0, 0], ['complex', 'x', 1])))\n"
        "time.sleep(1)",
        "read what the host says": "for fd in sockets():\n    os.write(fd, frame({'t': 'call', 'x': 2, 'id': 5, 'name': 'echo', 'args': [1], 'kwargs': {}}))\n"
        "    print(len(os.read(fd, 1000)))",
        "steal the next command": "def steal():\n    for fd in sockets():\n        print(os.read(fd, 100_000))\n"
        "threading.Thread(target=steal, daemon=True).start()",
        "answer in another's name": "def reply():\n    for fd in sockets():\n        print(os.read(fd, 10))\n"
        "threading.Thread(target=reply, daemon=True).start()\necho(1)",
        "the socket made blocking and small": "s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=sockets()[0])\n"
        "s.setblocking(False)\ns.settimeout(0.001)\necho('x' * 1_000_000) == 'x' * 1_000_000",
        "the socket shut": "s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=sockets()[0])\ns.close()\necho(1)",
        "a submission after the end": "threading.Thread(target=lambda: (time.sleep(0.1), SUBMIT(answer='late'))).start()",
    },
)

_VALUES = _all(
    "values",
    kept,
    5,
    {
        "repr raises": "class A:\n    def __repr__(self): raise ValueError('no')\na = A()\nprint(SHOW_VARS())\na",
        "repr ends the interpreter": "class A:\n    def __repr__(self): raise SystemExit\n    __str__ = __repr__\nA()",
        "repr is no text": "class A:\n    def __repr__(self): return 5\nA()",
        "repr is a liar": "class T(str):\n    def __len__(self): return 1\n    def __getitem__(self, i): return self\n"
        "class A:\n    def __repr__(self): return T('x' * 50_000_000)\nA()",
        "class raises": "class A:\n    @property\n    def __class__(self): raise ValueError('no')\na = A()\n"
        "echo(a)\necho([a])\na",
        "class lies": "class A:\n    __class__ = dict\n    def items(self): raise ValueError\na = A()\necho(a)\na",
        "attributes raise": "class A:\n    def __getattr__(self, n): raise KeyboardInterrupt\n"
        "try:\n    echo(A())\nexcept BaseException as e:\n    print(type(e))",
        "model_fields lie": "class A:\n    model_fields = {'a': 1, 5: 2}\n    __pydantic_root_model__ = True\necho(A())",
        "equality and hash raise": "class A:\n    def __eq__(self, o): raise ValueError\n    def __hash__(self): return 1\n"
        "echo({A(): 1})\necho([A(), A()])",
        "reduce is never asked": "class A:\n    def __reduce__(self): return (print, ('BREACH reduce',))\necho(A())",
        "text that is a subclass": "class T(str):\n    def __str__(self): return 'other'\n    def encode(self, *a): raise ValueError\n"
        "    def isascii(self): raise ValueError\nx = T('real')\nprint(x)\necho(x) == 'real', echo({x: x})",
        "numbers that are subclasses": "class N(int):\n    def __repr__(self): return 'forged'\n    def __int__(self): return 7\n"
        "    def __lt__(self, o): raise ValueError\necho(N(5)), echo(True), echo(type('F', (float,), {'__repr__': lambda s: 'x'})(1.5))",
        "a dict that is a subclass": "class D(dict):\n    def items(self): raise ValueError('no')\n    def keys(self): return 1\n"
        "echo(D(a=1))",
        "a list that never ends": "class L(list):\n    def __iter__(self):\n        while True: yield 1\n"
        "try:\n    echo(L([1]))\nexcept BaseException as e:\n    print(type(e))",
        "a list that holds itself": "a = [1]\na.append(a)\na.extend([a, a])\nprint(a)\necho(a)\na",
        "a dict that holds itself": "d = {}\nd['d'] = d\nprint(d)\necho(d)\nd",
        "a very deep list": "x = []\nfor _ in range(100_000): x = [x]\ntry:\n    echo(x)\nexcept RecursionError as e:\n    print('deep')\nx",
        "a million keys": "d = {str(i): i for i in range(1_000_000)}\ntry:\n    SUBMIT(answer=d)\nexcept ValueError as e:\n    print(str(e)[:80])",
        "a text over the limit": "try:\n    echo('x' * 100_000_000)\nexcept ValueError as e:\n    print(e)",
        "an exception that cannot be shown": "class E(Exception):\n    def __str__(self): raise ValueError('no')\n    __repr__ = __str__\nraise E",
        "an exception that lies": "class E(Exception):\n    def __str__(self): return 5\nraise E from E()",
        "an exception without end": "a, b = ValueError('a'), ValueError('b')\na.__cause__, b.__cause__ = b, a\nraise a",
        "a group of many": "raise ExceptionGroup('many', [ValueError(i) for i in range(100_000)])",
        "a number that explodes": "from decimal import Decimal\ntry:\n    SUBMIT(answer=Decimal('1e999999999'))\nexcept (ValueError, TypeError) as e:\n    print(e)\n"
        "echo(Decimal('1e999999999'))",
        "text with every code": "x = ''.join(map(chr, range(0x11_0000)))\necho(x) == x, len(print(x) or x)",
        "a forged tag": "echo({'~': ['record', 'X', []]}) == {'~': ['record', 'X', []]}, echo({'~': 1})",
        "objects of the machinery": "for o in (SUBMIT, echo, sys, sys.stdout, sys._getframe(), type, object(), gc, lambda: 0, print):\n    echo(o)",
        "a metaclass that raises": "class M(type):\n    @property\n    def __name__(c): raise ValueError('no')\n    def __repr__(c): raise ValueError('no')\n"
        "class A(metaclass=M): pass\na = A()\ntry:\n    echo(a)\nexcept Exception as e:\n    print(type(e))",
    },
)

_NAMESPACE = _all(
    "namespace",
    nothing_more,
    2,
    {
        "json replaced": "json.dumps = json.loads = None\njson.JSONEncoder.encode = json.JSONDecoder.decode = None\n"
        "json.encoder = json.decoder = None\necho(1)",
        "struct and sockets replaced": "struct.pack = struct.unpack = struct.Struct = None\n"
        "socket.socket.sendall = socket.socket.recv_into = socket.socket.send = None\necho(1)",
        "threading replaced": "threading.Lock = threading.Thread = threading.get_ident = threading.current_thread = None\necho(1)",
        "builtins replaced": "import builtins\nfor name in dir(builtins):\n"
        "    if not name.startswith('__'):\n        setattr(builtins, name, None)",
        "builtins removed": "import builtins\nvars(builtins).clear()",
        "modules removed": "sys.modules.clear()",
        "main replaced": "sys.modules['__main__'] = None\ndel sys.modules['builtins']",
        "stdout replaced": "sys.stdout = sys.stderr = sys.__stdout__ = None",
        "a hostile stdout": "class S:\n    def write(self, t): raise ValueError('no')\n    def flush(self): raise SystemExit\n"
        "sys.stdout = sys.stderr = S()\nprint(1)",
        "globals emptied": "globals().clear()",
        "globals of other kinds": "globals()[1] = 2\nglobals()[None] = 3\n"
        "class K(str):\n    def startswith(self, *a): raise ValueError\nglobals()[K('k')] = 1\nSHOW_VARS()",
        "host functions overwritten": "SUBMIT = echo = SHOW_VARS = print = len = None",
        "host functions opened": "f = echo.__code__\necho.__code__ = (lambda *a, **k: 'forged').__code__",
        "the machinery, by its own functions": "inside = SUBMIT.__globals__\nfor name in list(inside):\n"
        "    if not name.startswith('__'):\n        inside[name] = None",
        "the machinery, found by gc": "for o in gc.get_objects():\n"
        "    if type(o).__module__ in ('channel', 'cell', 'codec', '__main__') and hasattr(o, '__dict__'):\n"
        "        for name in list(vars(o)):\n            try:\n                setattr(o, name, None)\n            except Exception: pass",
        "the machinery's sender": "for o in gc.get_objects():\n    if type(o).__name__ == 'Channel':\n        o.send = lambda m: None\necho(1)",
        "the traceback's printers": "import traceback, linecache, reprlib\ntraceback.TracebackException = None\nlinecache.cache = None\n"
        "reprlib.Repr = None\n1 / 0",
        "a tracer": "def t(*a): raise ValueError('traced')\nsys.settrace(t)\nthreading.settrace(t)",
        "a profiler": "def t(*a): raise SystemExit\nsys.setprofile(t)\nthreading.setprofile(t)",
        "a patient tracer": "def t(frame, event, arg):\n    if 'serve' in frame.f_code.co_name or 'send' in frame.f_code.co_name: os._exit(1)\n    return t\nsys.settrace(t)",
        # Python 3.12 and later: no thread's own, as a tracer is, and stopped by nobody.
        "a monitor": "m = sys.monitoring\ndef t(*a): raise ValueError('monitored')\nfor tool in range(6):\n    try: m.use_tool_id(tool, 't')\n"
        "    except ValueError: pass\n    for event in (m.events.PY_START, m.events.LINE, m.events.CALL): m.register_callback(tool, event, t)\n"
        "    m.set_events(tool, m.events.PY_START | m.events.LINE | m.events.CALL)",
        "a patient monitor": "m = sys.monitoring\ndef t(code, *a):\n    if 'serve' in code.co_name or 'send' in code.co_name: os._exit(1)\n"
        "m.use_tool_id(3, 't')\nm.register_callback(3, m.events.PY_START, t)\nm.set_events(3, m.events.PY_START)",
        "hooks": "sys.excepthook = sys.displayhook = sys.unraisablehook = threading.excepthook = None\n"
        "sys.meta_path.clear()\nsys.path_hooks.clear()\nimport email.mime.text",
        "signal handlers": "for n in range(1, 65):\n    try:\n        signal.signal(n, lambda *a: 1 / 0)\n    except (OSError, ValueError): pass\n"
        "signal.signal = None",
        "a tiny recursion limit": "sys.setrecursionlimit(60)",
        "no switches between threads": "sys.setswitchinterval(1000)\nthreading.Thread(target=lambda: [0 for _ in range(10**7)], daemon=True).start()",
        "garbage with an end": "class G:\n    def __del__(self): os._exit(1)\ng = G()\ng.self = g\ndel g",
        "asyncio replaced": "import asyncio\nasyncio.Runner = asyncio.run = None\nasyncio.set_event_loop_policy(None)",
        # From Python 3.13 on what is written there is written to the machinery's own variables.
        "the frames above": "f = sys._getframe()\nwhile f:\n    own = f.f_locals if f.f_locals is not globals() else {}\n"
        "    for name in list(own): own[name] = None\n"
        "    for o in list(f.f_globals):\n        if f.f_globals is not globals() and o.islower(): f.f_globals[o] = None\n    f = f.f_back",
        "code of the machinery": "import types\nfor o in gc.get_objects():\n"
        "    if isinstance(o, types.FunctionType) and '_worker' in o.__code__.co_filename:\n"
        "        o.__code__ = (lambda *a, **k: None).__code__ if not o.__closure__ else o.__code__",
    },
)

SNIPPETS: tuple[Snippet, ...] = (
    *_FILES,
    *_SECRETS,
    *_PROCESS,
    *_NETWORK,
    *_EXEC,
    *_SIGNALS,
    *_BOMBS,
    *_SLOW,
    *_EXIT,
    *_PROTOCOL,
    *_VALUES,
    *_NAMESPACE,
    # It cannot be taken out again, and it sees every line the worker runs.
    Snippet("namespace", "an audit hook", "sys.addaudithook(lambda *a: 1 / 0)", spoils=True),
)
