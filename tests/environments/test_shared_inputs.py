"""One large input of several sessions: written once, decoded once, seen by nobody else."""

from __future__ import annotations

import asyncio
import hashlib
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dszig_py.contract import compile_contract
from dszig_py.environments import _zygote, inputs
from dszig_py.environments.base import CellLimits
from dszig_py.environments.process import ProcessEnvironment
from dszig_py.signature import Signature

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
MB = 1_000_000


class Host:
    functions: dict[str, str] = {}

    async def call(self, name, args, kwargs):
        raise AssertionError

    async def submit(self, args, kwargs):
        return {}


async def opened(text):
    """A session whose worker is up."""
    contract = compile_contract(Signature.parse("text -> a"), {"text": text})
    session = await ProcessEnvironment().open(contract, Host(), CellLimits())
    await session.execute("pass")
    return session


def workers():
    pid = _zygote.zygote().pid
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return {int(p) for p in file.read().split()}


def largest(pid):
    """Bytes of a process's largest stretch of mapped memory: of a text on a file its first and last page are not."""
    with open(f"/proc/{pid}/maps") as file:
        spans = [[int(n, 16) for n in re.match(r"([0-9a-f]+)-([0-9a-f]+)", line).groups()] for line in file]
    most = at = end = 0
    for first, last in spans:
        at, end = (at if first == end else first), last
        most = max(most, end - at)
    return most


def tables(pid):
    """KiB of a process's page tables."""
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmPTE"))


@given(st.text(alphabet=st.characters(), max_size=300), st.integers(1, 7))
def test_a_text_is_written_as_its_utf8(text, chunk):
    """ASCII, where it lies in memory, and anything else, in chunks of any size, are the text's UTF-8."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs, "_CHUNK", chunk)
        for each in (text, "".join(c for c in text if c.isascii())):
            written = b"".join(bytes(part) for part in inputs._chunks(each, "text", None))
            assert written == each.encode("utf-8", "surrogatepass")


def test_sessions_that_open_at_once_write_an_input_once(monkeypatch):
    """Eight threads pack the same text: one file, eight holders, nothing left when all have let go."""
    text, made, files = "x" * (4 * MB), [], []
    real = inputs._anonymous_file
    monkeypatch.setattr(inputs, "_anonymous_file", lambda: files.append(1) or real())
    threads = [threading.Thread(target=lambda: made.append(inputs.pack({"t": text}))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(files) == 1 and len({pack.fd for packed in made for _, pack in packed.packs}) == 1
    for packed in made:
        packed.release()
    assert id(text) not in inputs._shared


def test_a_text_that_cannot_be_written_fails_for_all_and_can_be_tried_again(monkeypatch):
    """No space for the file: everybody who waited is told, and the next attempt is a fresh one."""
    text, entered, failures = "y" * (4 * MB), threading.Event(), []

    def full(fd, chunk):
        entered.wait(60)
        raise OSError("no space")

    def packing():
        try:
            inputs.pack({"t": text})
        except OSError as error:
            failures.append(error)

    with monkeypatch.context() as patch:
        patch.setattr(inputs, "_write", full)
        threads = [threading.Thread(target=packing) for _ in range(3)]
        for thread in threads:
            thread.start()
        entered.set()
        for thread in threads:
            thread.join()
    assert len(failures) == 3 and id(text) not in inputs._shared
    packed = inputs.pack({"t": text})
    assert packed.packs[0][1].size == len(text)
    packed.release()


def test_a_large_text_is_decoded_once_and_others_do_not_see_it():
    """Sessions over one text of 80 MB share its pages; a session opened beside them has no such memory at all; when they
    are closed the zygote lets go of it.
    """

    async def main():
        text = "0123456789" * (8 * MB) + "end"
        three = await asyncio.gather(*(opened(text) for _ in range(3)))
        before = workers()
        other = await opened("short")
        (beside,) = workers() - before
        (born_with,) = {largest(pid) >= len(text) for pid in before}
        assert born_with and largest(_zygote.zygote().pid) >= len(text)
        await other.execute("1")
        assert largest(beside) < len(text) // 2
        for session in three:
            done = await session.execute("print(len(text), text[-3:]); text = 'mine'")
            assert done.stdout == "80000003 end\n", done
        lost = await three[0].execute("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
        assert lost.lost and (await three[0].execute("print(text[:3])")).stdout == "012\n"
        await asyncio.gather(*(session.close() for session in [*three, other]))
        again = await opened("short")  # the zygote serves in order: what it was told before this is done
        assert largest(_zygote.zygote().pid) < len(text) // 2
        await again.close()

    asyncio.run(main())


@pytest.mark.parametrize("word", ["\u4f60\u597d end", "caf\xe9 and more", "0123456789"])
def test_a_text_of_many_sessions_is_on_a_file_and_the_same_for_all(word):
    """From the fourth session on forks copy no table for its pages: text of any width arrives whole, and stays it."""

    async def main():
        wide = word * (8 * MB)
        first = await opened(wide)
        (alone,) = workers()
        others = [await opened(wide) for _ in range(6)]
        assert tables(max(workers())) < tables(alone) // 2
        for session in (first, *others):
            asked = "import hashlib; len(text), hashlib.sha256(text.encode()).hexdigest()"
            done = await session.execute(asked)
            assert done.value == repr((len(wide), hashlib.sha256(wide.encode()).hexdigest())), done
        await asyncio.gather(*(session.close() for session in (first, *others)))

    asyncio.run(main())


def test_a_single_session_leaves_the_zygote_alone():
    """A text that nobody shares is decoded in its own worker: the zygote neither waits for it nor holds it."""

    async def main():
        text = "0123456789" * (8 * MB)
        session = await opened(text)
        assert largest(_zygote.zygote().pid) < len(text) // 2
        assert (await session.execute("print(len(text))")).stdout == "80000000\n"
        await session.close()

    asyncio.run(main())


PLACED = """
import os, random, sys
sys.path.insert(0, sys.argv[1])
import pages
whole = "".join(map(chr, random.Random(1).choices(range(128), k=70_000)))
for size in [*range(8_192, 16_500, 61), 12_288 - 48, 12_288 - 47, 65_536, 70_000]:
    fd = os.memfd_create("given")
    os.write(fd, whole[:size].encode())
    made = pages.ascii_text(fd, size)
    os.close(fd)
    assert made == whole[:size] and hash(made) == hash(whole[:size]), size
    assert made.isascii() and (made + "x")[-2:] == whole[size - 1] + "x" and len(made.encode()) == size, size
"""


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="elsewhere a text is decoded")
def test_a_text_put_on_a_files_pages_is_the_text():
    """Whatever part of a page it begins and ends in: the same characters, the same hash, and it can be used as any other."""
    worker = Path(_zygote.__file__).with_name("_worker")
    subprocess.run([sys.executable, "-c", PLACED, str(worker)], check=True, timeout=60)
