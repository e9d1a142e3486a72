"""A worker that may write in a folder of its own: hostile cells that try to make more of it, and all others once more."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from environments.test_hostile import NOBODY, interpreter_of_nobody

from dszig_py import RLM, File
from dszig_py.environments.isolation import facts
from dszig_py.environments.process import ProcessEnvironment
from dszig_py.signature import Field, Signature
from dszig_py.testing import ScriptedLM, hostile

pytestmark = pytest.mark.skipif(sys.platform != "linux" or not facts()["landlock"], reason="writing needs Landlock")

# Written by their numbers: Python's own os would refuse or mend some of them before the kernel sees them.
_NUMBERS = """
X = os.uname().machine == 'x86_64'
def raw(name, *args):
    numbers = {'unlinkat': (263, 35), 'renameat2': (316, 276), 'linkat': (265, 37), 'symlinkat': (266, 36), 'mknodat': (259, 33),
               'fchmod': (91, 52), 'fallocate': (285, 47), 'memfd_create': (319, 279), 'truncate': (76, 45), 'execve': (59, 221)}
    buffers = [ctypes.create_string_buffer(a.encode()) if isinstance(a, str) else a for a in args]
    args = [a if isinstance(a, int) else ctypes.addressof(a) for a in buffers]
    if libc.syscall(numbers[name][0 if X else 1], *map(ctypes.c_long, args)) < 0:
        raise OSError(ctypes.get_errno(), name)
HERE = os.open('.', os.O_RDONLY | os.O_DIRECTORY)
def made(name='x', data=b'data', mode=0o600):
    fd = os.open(name, os.O_WRONLY | os.O_CREAT, mode)
    os.write(fd, data)
    os.close(fd)
    return name
"""
_CASES = {
    "a link to the canary": "attempt('symlink', os.symlink, canary, 'l')\nattempt('raw', raw, 'symlinkat', canary, HERE, 'l')\n"
    "attempt('link', os.link, canary, 'l')\nattempt('linkat', raw, 'linkat', -100, canary, HERE, 'l', 0)\n"
    "attempt('second name', raw, 'linkat', HERE, made(), HERE, 'l', 0)",
    "special files": "attempt('fifo', os.mkfifo, 'f')\nattempt('node', os.mknod, 'n')\nattempt('device', os.mknod, 'd', 0o20600, 0x103)\n"
    "s = socket.socketpair()[0]\nattempt('socket', s.bind, './s')",
    "the canary, by renaming": "attempt('in', os.rename, canary, 'c')\nattempt('over', os.replace, made(), canary)\n"
    "attempt('out', os.rename, made(), folder + '/x')\nattempt('raw', raw, 'renameat2', HERE, made(), -100, folder + '/x', 1)\n"
    "attempt('exchange', raw, 'renameat2', HERE, made(), -100, canary, 2)\nattempt('up', os.rename, made(), '../dszig-up')",
    "the canary, by truncating": "attempt('w', open, canary, 'w')\nattempt('read and truncate', os.open, canary, os.O_RDONLY | os.O_TRUNC)\n"
    "attempt('truncate', os.truncate, canary, 0)\nattempt('raw', raw, 'truncate', canary, 0)\nattempt('remove', os.remove, canary)\n"
    "attempt('own library', os.open, os.__file__, os.O_RDONLY | os.O_TRUNC)",
    "above the folder": "attempt('up', open, '../dszig-up', 'w')\nattempt('list', os.listdir, '..')\nattempt('mkdir', os.mkdir, '../dszig-up')\n"
    "attempt('by descriptor', os.open, '..', os.O_RDONLY, dir_fd=HERE)\nattempt('chdir', os.chdir, '/tmp')\n"
    "import tempfile\nattempt('temporary', tempfile.mkstemp, dir=os.path.dirname(os.getcwd()))",
    "names taken away": "attempt('unlink', raw, 'unlinkat', HERE, made(), 0)\nattempt('rmdir', raw, 'unlinkat', HERE, os.mkdir('d') or 'd', 0x200)\n"
    "attempt('over', raw, 'renameat2', HERE, made('a'), HERE, made('b'), 0)\nattempt('tmpfile', os.open, '.', os.O_TMPFILE | os.O_RDWR)\n"
    "attempt('away', raw, 'renameat2', HERE, made('c'), os.open(os.mkdir('e') or 'e', os.O_RDONLY), 'c', 1)\n"
    "attempt('whiteout', raw, 'renameat2', HERE, 'a', HERE, 'w', 5)",
    "a program that was written": "made('run', b'#!/bin/sh\\n', 0o700)\nattempt('execve', os.execve, './run', ['run'], {})\n"
    "attempt('chmod', os.chmod, 'run', 0o777)\nattempt('fchmod', raw, 'fchmod', os.open('run', os.O_RDONLY), 0o777)\n"
    "import subprocess\nattempt('run', subprocess.run, ['./run'])",
    "a library that was written": "import _csv, shutil, sysconfig, glob\n"
    "found = glob.glob(os.path.join(sysconfig.get_path('platstdlib'), 'lib-dynload', '*.so'))\n"
    "shutil.copyfile(found[0], 'own.so')\nassert os.path.getsize('own.so') > 1000\n"
    "attempt('dlopen', ctypes.CDLL, './own.so')\nattempt('path', ctypes.CDLL, os.getcwd() + '/own.so')\n"
    "import mmap\nfd = os.open('own.so', os.O_RDWR)\nfor flags in (mmap.MAP_SHARED, mmap.MAP_PRIVATE):\n"
    "    attempt('mmap', mmap.mmap, fd, 4096, flags, mmap.PROT_READ | mmap.PROT_EXEC)\n"
    "m = mmap.mmap(fd, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)\nat = ctypes.addressof(ctypes.c_char.from_buffer(m))\n"
    "if libc.mprotect(ctypes.c_void_p(at), 4096, 5) == 0: print('BREACH mprotect')",
    "memory beyond its limit": "attempt('memfd', os.memfd_create, 'x')\nfd = os.open('big', os.O_RDWR | os.O_CREAT)\n"
    "attempt('truncate', os.ftruncate, fd, 1 << 40)\nattempt('fallocate', raw, 'fallocate', fd, 0, 0, 1 << 20)\n"
    "attempt('seek', lambda: (os.lseek(fd, 1 << 40, 0), os.write(fd, b'x')))\nimport resource\n"
    "attempt('limit', resource.setrlimit, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))",
    "folders that shut out": "os.mkdir('shut', 0o000)\nos.mkdir('half', 0o300)\nattempt('canary', read, 'half/../../../' + canary)",
    "the module that mends": "os.unlink = os.remove = os.rename = os.replace = os.rmdir = None\nimport gc\nfor m in list(sys.modules.values()):\n"
    "    if getattr(m, '__file__', '') and m.__file__.endswith('_worker/scratch.py'):\n        vars(m).clear()",
}
SNIPPETS = [
    hostile.Snippet("scratch", name, f"{_NUMBERS}\n{code}", hostile.SNIPPETS[0].harm) for name, code in _CASES.items()
]
# Legal here: a temporary file in the folder of its own. Where it is made is asked in tests/test_output_files.py.
_OTHERS = [
    s
    for s in hostile.SNIPPETS
    if s.category in ("files", "secrets", "process", "exec", "network", "namespace") and s.name != "temporary files"
]
AS_NOBODY = f"""
import os, sys
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
import json
from environments import test_scratch
print(json.dumps([os.getuid(), *test_scratch.outcomes()]))
"""


WRITE = "```python\nwith open(f'{scratch}/a', 'w') as f: f.write('report')\nSUBMIT(report=f'{scratch}/a')\n```"


def outcomes() -> tuple[int, list[str], str, list[str]]:
    """How many cells ran next to a scratch folder, what went wrong, what an honest one delivers, and what is left then."""
    compile_: Any = hostile.compile_contract

    def with_a_file(signature: Signature, inputs: dict[str, Any]) -> Any:
        return compile_(Signature(signature.inputs, (*signature.outputs, Field("report", File))), inputs)

    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", place)
        patch.setattr(hostile, "compile_contract", with_a_file)
        results = asyncio.run(hostile.run(ProcessEnvironment(scratch="1MiB"), [*SNIPPETS, *_OTHERS]))
        told = RLM("q -> report: File", lm=ScriptedLM([WRITE]), output_dir=f"{place}/out")(q="?").report
        wrong = [str(result) for result in results if not result.ok]
        return len(results), wrong, Path(told.path).read_text(), os.listdir(place)


def test_no_hostile_cell_makes_more_of_a_folder_to_write_in():
    """Nothing outside is read, written, renamed or linked, nothing inside is run, mapped as code or hidden."""
    assert outcomes() == (len(SNIPPETS) + len(_OTHERS), [], "report", ["out"])


@pytest.mark.skipif(os.geteuid() != 0, reason="the other test here has run as an ordinary user already")
def test_nor_does_one_of_an_ordinary_user():
    """The same as uid 65534, for whom no capability was taken away."""
    python, env = interpreter_of_nobody()
    ran = subprocess.run([python, "-c", AS_NOBODY], env=env, capture_output=True, text=True, cwd="/", timeout=200)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert json.loads(ran.stdout) == [NOBODY, len(SNIPPETS) + len(_OTHERS), [], "report", ["out"]]
