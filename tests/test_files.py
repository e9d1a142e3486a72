"""Files as inputs, seen from the host: what is opened, what is refused; and ``Text`` against ``str``, which it stands for."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import stat
import threading
import warnings
from pathlib import Path
from typing import Annotated

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

import dszig_py
from dszig_py import RLM, File, Folder, InputError, Signature, SignatureError, Text, files, runner
from dszig_py.contract import compile_contract
from dszig_py.environments._worker import text as texts
from dszig_py.environments.in_place import in_place
from dszig_py.testing import ScriptedLM

CHARACTERS = st.text(st.sampled_from("aab\n\r.é€😀\0"), max_size=60)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of a few bytes: every boundary is met."""
    for name, size in {"BLOCK": 20, "_SCAN": 20, "_FIRST": 4, "_LEAD": 8, "_OVERLAP": 16, "_LINE": 12}.items():
        monkeypatch.setattr(texts, name, size)


def view(content: str, encoding: str = "utf-8") -> texts.Text:
    return texts.Text(texts.Held(content.encode(encoding)), encoding)


class Report(BaseModel):
    name: str
    file: File


def contract(signature, **inputs):
    return compile_contract(Signature.parse(signature, types={"Report": Report}), inputs)


@given(
    CHARACTERS, st.text(st.sampled_from("ab\né😀"), min_size=1, max_size=5), st.integers(-70, 70), st.integers(-70, 70)
)
@settings(max_examples=300)
def test_text_finds_and_counts_as_bytes_do(content, needle, start, stop):
    """find, rfind, count and in agree with those of the encoded bytes, across every boundary of a block."""
    data, wanted = content.encode(), needle.encode()
    found = view(content)
    assert (found.find(needle), found.rfind(needle), found.count(needle)) == (
        *(data.find(wanted), data.rfind(wanted)),
        data.count(wanted),
    )
    assert (needle in found, len(found)) == (wanted in data, len(data))
    assert found.startswith(needle) == data.startswith(wanted)
    assert found.endswith(needle) == data.endswith(wanted)
    if content.isascii():
        assert found[start:stop] == content[start:stop]
        assert found.find(needle, start, stop) == data.find(wanted, start, stop)


@given(CHARACTERS, st.integers(0, 100))
def test_neighbouring_slices_make_the_whole(content, cut):
    """No position cuts a character: what two slices hold together is the text."""
    found = view(content)
    assert found[:cut] + found[cut:] == content


PATTERNS = [
    r"a{1,3}b",
    r"(?m)^a",
    r"b$",
    r"\Z",
    r"(?<=a)b",
    r"a(?=\n)",
    r"(?s)a.{0,2}b",
    r"[é€]+",
    r"(a)|(b)",
    r"\w+",
    r"(?P<x>a\n?)b",
]


@given(CHARACTERS, st.sampled_from(PATTERNS))
@settings(max_examples=400)
def test_text_is_searched_as_re_searches_a_str(content, pattern):
    """finditer gives the matches of re that fit its overlap, groups and all, with positions that lead back to them."""
    found, compiled = list(view(content).finditer(pattern)), re.compile(pattern)
    expected = list(compiled.finditer(content))
    assert [(m.group(), m.groups(), m.groupdict()) for m in found] == [
        (m.group(), m.groups(), m.groupdict()) for m in expected
    ]
    assert [m.start() for m in found] == [len(content[: m.start()].encode()) for m in expected]
    assert [view(content)[m.start() : m.end()] for m in found] == [m.group() for m in found]


@given(st.lists(st.text(st.sampled_from("ab é"), max_size=4), max_size=12), st.integers(1, 4))
def test_lines_and_chunks_hold_the_text_in_order(lines, count):
    """Lines come whole with their positions; chunks by size and by lines join to the text."""
    content = "".join(f"{line}\n" for line in lines)
    found = view(content)
    assert list(found.lines()) == lines
    assert all(found[at:].startswith(line) for at, line in found.lines(offsets=True))
    for chunks in (list(found.chunks(5)), list(found.chunks(lines=count))):
        assert "".join(chunk for _, chunk in chunks) == content
        assert all(found[at:].startswith(chunk) for at, chunk in chunks)


def test_a_line_without_an_end_comes_in_pieces():
    """A file that is one line does not become one str; no piece cuts a character."""
    pieces = list(view("é" * 50).lines())
    assert len(pieces) > 1
    assert "".join(pieces) == "é" * 50


def test_other_encodings_show_their_characters():
    """One-byte encodings are read in place, UTF-16 through UTF-8, a byte order mark is no text, bad bytes are U+FFFD."""
    assert view("naïve café", "cp1252").find("café") == 6
    assert view("h€llo", "utf-16")[:] == "h€llo"
    assert texts.Text(texts.Held(b"\xef\xbb\xbfhi"))[:] == "hi"
    bad = texts.Text(texts.Held(b"a\xffb\xffc"))
    assert (bad[:], bad.search("b").span()) == ("a\ufffdb\ufffdc", (2, 3))


def test_text_says_what_to_do_instead():
    """What a str has and Text has not names the way; str() of too much is refused."""
    found = view("abc")
    with pytest.raises(AttributeError, match=r"text\[start:stop\]\.upper"):
        found.upper()
    with pytest.raises(ValueError, match="without a step"):
        found[::2]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ValueError, match="too many for one str"):
        patch.setattr(texts, "MOST", 2)
        str(found)


def test_the_types_are_read_from_text():
    """File, Folder, Text and Path are names in a signature, and public."""
    found = Signature.parse("a: File, b: Folder, c: Text, d: pathlib.Path, e: Path | None -> x")
    assert [f.type for f in found.inputs] == [File, Folder, Text, Path, Path | None]
    assert files.wanted(Annotated[File, "log"]) is files.wanted(File | None) is File
    assert files.wanted(list[File]) is None
    assert {"File", "Folder", "Text"} <= set(dszig_py.__all__)


def test_the_contract_tells_of_a_file(tmp_path):
    """Name, size, kind, encoding and the first lines; binary as such; the value is no content."""
    (tmp_path / "a.log").write_text("first é\nsecond\n")
    (tmp_path / "b.bin").write_bytes(b"\x7fELF\0\0")
    (tmp_path / "c.txt").write_bytes("café, naïve".encode("cp1252"))
    told = contract(
        "a: File, b: Path, c: Text -> x", a=tmp_path / "a.log", b=str(tmp_path / "b.bin"), c=tmp_path / "c.txt"
    ).text
    assert "a: File, 'a.log', 16 bytes, text, utf-8" in told
    assert "starts 'first é\\nsecond\\n'" in told
    assert "b: File, 'b.bin', 6 bytes, binary" in told
    assert "c: Text, 'c.txt', 11 bytes, text, cp1252" in told


def test_the_contract_tells_of_a_folder_within_bounds(tmp_path, monkeypatch):
    """A tree of a few lines with counts, not a list of everything; beyond the bound it says so."""
    for number in range(60):
        (tmp_path / f"f{number}").touch()
    (tmp_path / "sub").mkdir()
    told = contract("a: Folder -> x", a=tmp_path).text
    assert "60 files and 1 folders" in told
    assert told.count("\n     f") <= 40
    monkeypatch.setattr(files, "_MOST_ENTRIES", 10)
    assert "over 10 files" in contract("a: Folder -> x", a=tmp_path).text.replace("over 9 ", "over 10 ")


@pytest.mark.parametrize(
    "what", ["fifo", "socket", "link", "missing", "folder", "/dev/zero", "/proc/self/environ", "nul", "empty"]
)
def test_what_is_no_file_is_refused_before_any_call(tmp_path, what):
    """Special files, links, the kernel's own and nothing at all: an InputError that names the field; the model is not asked."""
    path = str(tmp_path / "x")
    listening = socket.socket(socket.AF_UNIX)
    make = {
        "fifo": lambda: os.mkfifo(path),
        "socket": lambda: listening.bind(path),
        "link": lambda: os.symlink("/etc/passwd", path),
        "folder": lambda: os.mkdir(path),
    }
    make.get(what, lambda: None)()
    value = {"nul": "a\0b", "empty": ""}.get(what, what if what.startswith("/") else path)
    lm = ScriptedLM(["never"])
    with listening, pytest.raises(InputError, match="'log'"):
        RLM("log: File -> answer", lm=lm)(log=value)
    assert lm.requests == []


def test_a_file_that_cannot_be_read_is_refused_by_its_field(tmp_path, monkeypatch):
    """As some files of the kernel's are, whatever their mode says."""
    (tmp_path / "x").write_text("x")

    def unreadable(*_):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "pread", unreadable)
    with pytest.raises(InputError, match="'log'.*cannot be read: Invalid argument"):
        contract("log: File -> x", log=tmp_path / "x")


def test_everything_there_is_is_no_folder_to_give():
    """The root, /proc and a file are refused for a Folder."""
    for path in ("/", "/proc", "/sys", __file__):
        with pytest.raises(InputError, match="'a'"):
            contract("a: Folder -> x", a=path)
    with pytest.raises(InputError, match="pass a path"):
        contract("a: File -> x", a=7)


@pytest.mark.parametrize(
    "tp", ["Folder | None", "dict[str, Folder]", "File | str", "set[File]", "dict[File, str]", "Report", "list[Report]"]
)
def test_what_cannot_be_an_output_of_files_is_refused(tp):
    """A folder, or a type in which a file stands beside or beneath something else, is refused at once."""
    with pytest.raises(SignatureError, match="output 'report'"):
        contract(f"a -> report: {tp}", a="x")


@pytest.mark.parametrize("tp", ["list[File]", "dict[str, Folder]", "File | Folder"])
def test_files_inside_of_other_types_are_refused(tmp_path, tp):
    """No silent half of it: a list of File would be bound as records that hold paths and cannot be read."""
    with pytest.raises(SignatureError, match="'a'"):
        contract(f"a: {tp} -> x", a=[tmp_path])
    assert contract("a: Path | str -> x", a="a word").variables[0].value == "a word"


@pytest.mark.skipif(not os.path.ismount("/dev"), reason="devices have no file system of their own here")
def test_a_folder_of_devices_is_refused():
    """/dev is no folder to give: its files are refused one by one, and code that opens by itself would read them."""
    with pytest.raises(InputError, match="kernel's"):
        contract("a: Folder -> x", a="/dev")


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no table of mounts")
@pytest.mark.parametrize("name", ["proc", "two words"])
def test_a_folder_with_the_kernels_mounts_in_it_is_refused(tmp_path, monkeypatch, name):
    """A root file system with its /proc: Landlock's rule for the folder would hold for the mount too."""
    place = str(tmp_path / name).replace(" ", "\\040").encode()
    line = b"30 20 0:5 / %b rw - %b none rw\n"
    read = Path.read_bytes
    for kind, beside in ((b"proc", False), (b"tmpfs", False), (b"proc", True)):
        table = line % (place.replace(b"/" + place.rpartition(b"/")[2], b"-beside") if beside else place, kind)
        monkeypatch.setattr(Path, "read_bytes", lambda p, t=table: t if p.name == "mountinfo" else read(p))
        if kind == b"proc" and not beside:
            with pytest.raises(InputError, match="kernel's"):
                contract("a: Folder -> x", a=tmp_path)
        else:
            assert "0 files" in contract("a: Folder -> x", a=tmp_path).text


def test_a_link_on_the_way_is_the_callers_and_one_at_the_end_is_refused(tmp_path):
    """/tmp is a link on macOS: what leads to a path may go through links; the path itself may not be one, nor one with a slash."""
    inside = tmp_path / "real" / "in"
    inside.mkdir(parents=True)
    (inside / "x").write_text("content")
    (tmp_path / "way").symlink_to(tmp_path / "real")
    found = contract("a: File, b: Folder -> x", a=tmp_path / "way" / "in" / "x", b=str(tmp_path / "way" / "in") + "/")
    assert "7 bytes" in found.text
    assert "1 files" in found.text
    for end in ("way", "way/", "way//"):
        with pytest.raises(InputError, match="is a link"):
            contract("b: Folder -> x", b=f"{tmp_path}/{end}")


def test_a_folder_with_a_device_in_it_is_refused(tmp_path):
    """Landlock knows of no kinds of files: code that opens by itself could read it. Pipes and sockets are left alone."""
    (tmp_path / "sub").mkdir()
    os.mkfifo(tmp_path / "sub" / "pipe")
    assert "1 files and 1 folders" in contract("a: Folder -> x", a=tmp_path).text
    try:
        os.mknod(tmp_path / "sub" / "zero", 0o600 | stat.S_IFCHR, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("only root makes devices")
    with pytest.raises(InputError, match="holds the device 'sub/zero'"):
        contract("a: Folder -> x", a=tmp_path)


def deep(folder, levels):
    """So many folders inside each other, each with a file; a path that no system call takes in one piece is no matter."""
    fd = os.open(folder, os.O_RDONLY)
    for number in range(levels):
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        os.mkdir(f"d{number:02}", dir_fd=fd)
        inner = os.open(f"d{number:02}", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(os.open("last", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)


def test_what_lies_too_deep_is_said(tmp_path):
    """70 levels: the tree and what lists files tell where they stop, and the way on from there works."""
    deep(tmp_path, 70)
    held = contract("a: Folder -> x", a=tmp_path)
    folder = in_place("a", held.variables[0].value)
    with pytest.warns(UserWarning, match="more than 64 folders deep is left out"):
        found = list(folder.files())
    assert len(found) == 65
    with pytest.warns(UserWarning, match="left out"):
        tree = folder.tree(1_000)
    assert tree.splitlines()[64] == "  " * 64 + "d64/ (what is in it is left out)"
    onward = "/".join(f"d{number:02}" for number in range(65))
    with warnings.catch_warnings(action="error"):
        assert folder[onward].glob("**/last") == [f"{'/'.join(f'd{n}' for n in range(65, 70))}/last"]
    assert folder[onward]["d65"]["f"]._place == f"a['{onward}/d65/f']"


def test_a_folder_is_looked_through_off_the_event_loop(tmp_path, monkeypatch):
    """While a slow one is being opened, the loop goes on: what the opening waits for is done by the loop itself."""
    ticked, compile_ = threading.Event(), runner.compile_contract

    def slow(*args, **options):
        assert ticked.wait(60), "the loop stood still"
        return compile_(*args, **options)

    monkeypatch.setattr(runner, "compile_contract", slow)

    async def go():
        rlm = RLM(
            "a: Folder -> n: int", lm=ScriptedLM(["```python\nSUBMIT(n=len(list(a)))\n```"]), environment="inprocess"
        )
        run = asyncio.ensure_future(rlm.acall(a=tmp_path))
        await asyncio.sleep(0)
        while not ticked.is_set():
            asyncio.get_running_loop().call_later(0.01, ticked.set)
            await asyncio.sleep(0.02)
        return (await run).n

    (tmp_path / "x").touch()
    assert asyncio.run(go()) == 1


def test_many_folders_do_not_hide_the_files(tmp_path, monkeypatch):
    """Beyond the folders that wait open, those left out are said with "over"; what lies beside them is counted."""
    monkeypatch.setattr(files, "_MOST_OPEN", 3)
    for number in range(10):
        (tmp_path / f"d{number}").mkdir()
        (tmp_path / f"f{number}").touch()
    assert "over 10 files and 10 folders" in contract("a: Folder -> x", a=tmp_path).text


def test_descriptors_are_closed_with_what_holds_them(tmp_path):
    """A contract that is gone leaves nothing open, one that could not be made neither."""
    (tmp_path / "a").write_text("x")
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    contract("a: File, b: Folder, c: Text -> x", a=tmp_path / "a", b=tmp_path, c="text")
    with pytest.raises(InputError):
        contract("a: Folder -> x", a=tmp_path / "a")
    if before:
        assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("environment", ["script"])
def test_an_environment_that_cannot_take_files_says_so(tmp_path, environment):
    """The refusal names the environment and those that can."""
    (tmp_path / "a").write_text("x")
    with pytest.raises(InputError, match='environment="process"'):
        RLM("a: File -> x", lm=ScriptedLM(["x"]), environment=environment)(a=tmp_path / "a")
