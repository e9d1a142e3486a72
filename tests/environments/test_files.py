"""Files and folders in a worker: read by descriptor, contained, and no way to anything else."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dszig_py import RLM, File, Folder, InputError, Text
from dszig_py.cli.fields import Standard, read_inputs
from dszig_py.contract import compile_contract
from dszig_py.environments.base import CellLimits
from dszig_py.environments.inprocess import InProcessEnvironment
from dszig_py.environments.isolation import facts
from dszig_py.environments.process import ProcessEnvironment
from dszig_py.signature import Field, Signature
from dszig_py.testing import RecordingHost, ScriptedLM, hostile

LANDLOCK = pytest.mark.skipif(sys.platform != "linux" or not facts()["landlock"], reason="a folder needs Landlock")
BOTH = pytest.mark.parametrize("environment", [ProcessEnvironment(), InProcessEnvironment()], ids=lambda e: e.name)


def cells(environment: Any, inputs: dict[str, tuple[Any, Any]], *codes: str, between=lambda: None):
    """What ``codes`` print in one session over ``inputs``: name -> (type, value)."""

    async def go():
        fields = tuple(Field(name, tp) for name, (tp, _) in inputs.items())
        signature = Signature(fields, (Field("answer", Any),))
        contract = compile_contract(signature, {name: value for name, (_, value) in inputs.items()})
        session = await environment.open(contract, RecordingHost(contract), CellLimits(seconds=30))
        try:
            found = []
            for code in codes:
                between()
                done = await session.execute(code)
                found.append(done.stdout.strip() + done.error)
            return found
        finally:
            await session.close()

    return asyncio.run(go())


@BOTH
def test_a_run_answers_from_a_file(tmp_path, environment):
    """From a path to a prediction: the code gets a File, the model its name and first lines, nobody its content."""
    path = tmp_path / "app.log"
    path.write_text("ok\n" * 500_000 + "ERROR disk\n" + "ok\n" * 500_000)
    lm = ScriptedLM(["```python\nm = log.text().search(r'ERROR (\\w+)')\nSUBMIT(answer=f'{m[1]} at {m.start()}')\n```"])
    assert (
        RLM("log: File, question -> answer", lm=lm, environment=environment)(log=path, question="?").answer
        == "disk at 1500000"
    )
    assert "ERROR" not in str(lm.requests[0])


@BOTH
def test_a_file_is_what_was_opened(tmp_path, environment):
    """Replaced or removed while open, the first one is still read, byte by byte, line by line and as a file object."""
    path = tmp_path / "a"
    path.write_bytes(b"first\nsecond\n")
    (tmp_path / "b").write_bytes(b"other")
    code = "print(f.name, f.size, f.bytes(0, 5), list(f.lines(offsets=True)), f.open().read(), f.open().readline())"
    found = cells(
        environment,
        {"f": (File, path)},
        code,
        code,
        between=lambda: os.path.exists(tmp_path / "b") and os.replace(tmp_path / "b", path),
    )
    assert found == ["a 13 b'first' [(0, 'first'), (6, 'second')] b'first\\nsecond\\n' b'first\\n'"] * 2


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="memory is measured by /proc")
def test_a_file_far_larger_than_the_memory_is_searched_counted_and_sliced(tmp_path):
    """300 MB, sparse and real, in a worker of 64 MiB; the host's own high-water mark hardly moves."""
    size, island = 300_000_000, b"2026-01-01 info request served\n" * 30_000
    with open(tmp_path / "log", "wb") as file:
        file.truncate(size)
        for at in (0, 150_000_000):
            os.pwrite(file.fileno(), island, at)
        os.pwrite(file.fileno(), "\nnéedle".encode(), size - 8)
    code = """
t = f.text()
print(len(t), t.find("néedle"), t.count("request"), t.search(r"n(é+)edle").span(1), t[len(t) - 7:], t[150_000_011:150_000_015])
"""
    mark = re.compile(r"VmHWM:\s+(\d+) kB")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    before = int(mark.search(Path("/proc/self/status").read_text())[1])
    (said,) = cells(ProcessEnvironment(memory="64MiB"), {"f": (File, tmp_path / "log")}, code)
    grown = int(mark.search(Path("/proc/self/status").read_text())[1]) - before
    assert said == f"{size} {size - 7} 60000 ({size - 6}, {size - 4}) néedle info"
    assert grown < 50 * 1024


@BOTH
def test_a_str_declared_text_is_read_in_place(environment):
    """Text of a str: the same operations, without a str in the worker; a part of it crosses to the host, the whole does not."""
    code = "print(type(t).__name__, len(t), t.count('é'), t[0:5], t.find('z'))\nSUBMIT(answer=t)"
    (said,) = cells(environment, {"t": (Text, "é€" * 100_000)}, code)
    assert said.startswith("Text 500000 100000 é€ -1")


@LANDLOCK
@BOTH
def test_a_folder_is_read_and_nothing_around_it(tmp_path, environment):
    """Sub-folders, globs and greps work; .., absolute names, links and special files are refused."""
    inside = tmp_path / "in"
    (inside / "a" / "b").mkdir(parents=True)
    (inside / "a" / "b" / "x.py").write_text("def f():\n    return 1\n")
    (inside / "top.txt").write_text("def")
    (tmp_path / "secret").write_text("SECRET")
    (inside / "out").symlink_to(tmp_path / "secret")
    (inside / "up").symlink_to(tmp_path)
    os.mkfifo(inside / "pipe")
    code = """
print(list(d), d.glob("**/*.py"), d.glob("*.txt"), d.grep(r"def f"), d["a"]["b/x.py"].text()[:5], "a/b" in d, "no" in d)
for name in ("../secret", "/etc/passwd", "out", "up/secret", "pipe", "a/../../secret", "nothing"):
    try:
        print("BREACH", d[name])
    except OSError as error:
        print(type(error).__name__)
"""
    (said,) = cells(environment, {"d": (Folder, inside)}, code)
    first, *rest = said.splitlines()
    names = ["a/", "out", "pipe", "top.txt", "up"]
    assert first == f"{names} ['a/b/x.py'] ['top.txt'] [('a/b/x.py', 1, 'def f():')] def f True False"
    assert "SECRET" not in said
    assert "BREACH" not in said
    assert len(rest) == 7


@LANDLOCK
def test_of_the_disk_a_worker_sees_the_folder_alone(tmp_path):
    """Also past the objects, by path and by the descriptor itself: beside it and above it nothing can be opened or written."""
    inside = tmp_path / "in"
    inside.mkdir()
    (inside / "x").write_text("inside")
    (tmp_path / "secret").write_text("SECRET")
    code = f"""
import os
print(open({str(inside / "x")!r}).read())
for attempt in (lambda: open({str(tmp_path / "secret")!r}).read(), lambda: os.listdir({str(tmp_path)!r}),
                lambda: os.open("..", os.O_RDONLY, dir_fd=d._fd), lambda: os.open("../secret", os.O_RDONLY, dir_fd=d._fd),
                lambda: open({str(inside / "x")!r}, "w"), lambda: os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=d._fd),
                lambda: os.unlink("x", dir_fd=d._fd), lambda: os.fchmod(d._fd, 0o777), lambda: os.truncate({str(inside / "x")!r}, 0),
                lambda: os.ftruncate(f._stored.fd, 0), lambda: os.write(f._stored.fd, b"x"),
                lambda: open(f"/proc/self/fd/{{f._stored.fd}}", "w")):
    try:
        print("BREACH", attempt())
    except OSError:
        pass
"""
    found = cells(ProcessEnvironment(), {"d": (Folder, inside), "f": (File, inside / "x")}, code, code)
    assert found == ["inside", "inside"]
    # The next session has no folder: what this one was allowed is not carried over.
    (said,) = cells(ProcessEnvironment(), {"q": (str, "")}, f"open({str(inside / 'x')!r})")
    assert "PermissionError" in said


@BOTH
def test_odd_names_work(tmp_path, environment):
    """Names with line ends and with bytes that are no UTF-8."""
    names = [os.fsdecode(b"bad\xff name"), "two\nlines"]
    for name in names:
        Path(tmp_path / name).write_text("content")
    for name in names:
        assert cells(environment, {"f": (File, str(tmp_path / name))}, "print(f.text()[:], ascii(f.name))") == [
            f"content {ascii(name)}"
        ]
    if environment.name == "inprocess" or facts()["landlock"]:
        code = "print([ascii(n) for n in d], [d[n].text()[:] for n in d])"
        assert cells(environment, {"d": (Folder, tmp_path)}, code) == [
            f"{[ascii(n) for n in sorted(names)]} ['content', 'content']"
        ]


@LANDLOCK
def test_a_folder_of_very_many_files_works():
    """200,000 files: the contract stays short, the code sees them all."""
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None  # a disk may take a minute to make them
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        for number in range(200_000):
            os.mknod(f"f{number:06}", dir_fd=fd)
        os.close(fd)
        contract = compile_contract(Signature.parse("d: Folder -> x"), {"d": folder})
        assert len(contract.text) < 4_000
        assert "over 50,000 files" in contract.text
        code = "print(sum(1 for _ in d.files()), 'f199999' in d)"
        assert cells(ProcessEnvironment(), {"d": (Folder, folder)}, code) == ["200000 True"]


@LANDLOCK
def test_a_pipe_in_a_folder_holds_up_its_cell_and_nothing_else(tmp_path):
    """Code that opens one by itself waits for a writer; its seconds end that, the host goes on, and variables are kept."""
    os.mkfifo(tmp_path / "pipe")

    async def go():
        contract = compile_contract(Signature.parse("d: Folder -> x"), {"d": tmp_path})
        session = await ProcessEnvironment().open(contract, RecordingHost(contract), CellLimits(seconds=2))
        try:
            stopped = await session.execute(f"kept = 1\nopen({str(tmp_path / 'pipe')!r})")
            return stopped, await session.execute("print(kept, d.tree())")
        finally:
            await session.close()

    stopped, after = asyncio.run(go())
    assert "TimeoutError" in stopped.error
    assert stopped.lost == ""
    assert after.stdout == "1 \n"


@LANDLOCK
def test_code_reads_that_a_folder_is_too_deep(tmp_path):
    """The warning stands in the cell's output, with what could be listed."""
    fd = os.open(tmp_path, os.O_RDONLY)
    for _ in range(70):
        os.mkdir("d", dir_fd=fd)
        os.close(os.open("f", os.O_CREAT, dir_fd=fd))
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    (said,) = cells(ProcessEnvironment(), {"d": (Folder, tmp_path)}, "print(len(d.glob('**/f')))")
    assert "more than 64 folders deep is left out; go on from folder[name]" in said
    assert said.endswith("65")


def test_a_lost_worker_gets_its_file_again(tmp_path):
    """The descriptor outlives the worker: the next one reads the same file, removed meanwhile."""
    path = tmp_path / "a"
    path.write_text("here")
    cell = "print(f.text()[:])"
    found = cells(
        ProcessEnvironment(),
        {"f": (File, path)},
        cell,
        "import os; os._exit(1)",
        cell,
        between=lambda: path.unlink(missing_ok=True),
    )
    assert found == ["here", "", "here"]


def test_code_names_no_file_to_the_host(tmp_path):
    """A child's File would be opened outside of the boundary: a sub-call that declares one is refused, whatever it passes."""
    (tmp_path / "secret").write_text("SECRET")
    path = str(tmp_path / "secret")
    asked = "\n".join(
        f"try: print(rlm_query('d: {tp} -> answer', d={path!r}))\nexcept Exception as e: print(type(e).__name__)"
        for tp in ("File", "Folder", "Path", "pathlib.Path", "Text", "File | None", "list[File]")
    )
    lm = ScriptedLM([f"```python\n{asked}\nSUBMIT(answer=f)\n```", "```python\nSUBMIT(answer='none')\n```"])
    prediction = RLM("f: File -> answer", lm=lm)(f=path)
    first = prediction.trajectory.iterations[0].execution
    assert first.stdout.splitlines() == ["ValueError"] * 7
    assert "File cannot leave" in first.error
    assert prediction.answer == "none"


@pytest.mark.skipif(sys.platform != "linux", reason="the boundary of this platform is another")
def test_the_hostile_cells_do_no_more_harm_with_files_open(tmp_path, monkeypatch):
    """The hostile snippets once more, each next to a File and a Folder: none gets more than those."""
    (tmp_path / "x").write_text("x")
    compile_ = hostile.compile_contract

    def with_files(signature: Signature, inputs: dict[str, Any]):
        more = (Field("a_file", File), Field("a_folder", Folder))[: 2 if facts()["landlock"] else 1]
        given = {"a_file": tmp_path / "x", "a_folder": tmp_path}
        wider = Signature((*signature.inputs, *more), signature.outputs)
        return compile_(wider, {**inputs, **{f.name: given[f.name] for f in more}})

    monkeypatch.setattr(hostile, "compile_contract", with_files)
    # These two count any file among the descriptors as a breach, and a File is one: asked more exactly below.
    by_descriptor = {"own descriptors", "descriptors of the parents"}
    categories = ("files", "secrets", "exec", "namespace", "process")
    chosen = [s for s in hostile.SNIPPETS if s.category in categories and s.name not in by_descriptor]
    parents = next(s for s in hostile.SNIPPETS if s.name == "descriptors of the parents")
    assert "('self', " in parents.code
    chosen.append(replace(parents, code=parents.code.replace("('self', ", "(")))
    results = asyncio.run(hostile.run(ProcessEnvironment(), chosen))
    assert [str(result) for result in results if not result.ok] == []
    assert (tmp_path / "x").read_text() == "x"


@LANDLOCK
def test_a_worker_holds_its_socket_and_what_was_given_and_no_other_descriptor(tmp_path):
    """Each descriptor is the one socket, or is the very file or folder that was given."""
    (tmp_path / "x").write_text("x")
    code = """
import os, stat
for fd in range(3, 256):
    try:
        about = os.fstat(fd)
    except OSError:
        continue
    print("socket" if stat.S_ISSOCK(about.st_mode) else about.st_ino)
"""
    (said,) = cells(ProcessEnvironment(), {"f": (File, tmp_path / "x"), "d": (Folder, tmp_path)}, code)
    expected = ["socket", str((tmp_path / "x").stat().st_ino), str(tmp_path.stat().st_ino)]
    assert sorted(said.split()) == sorted(expected)


@BOTH
def test_a_session_takes_another_file(tmp_path, environment):
    """From call to call: the file is the one of the call, variables of the code stay."""
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    cells_ = ["x = 7\nSUBMIT(answer=f.text()[:])", "SUBMIT(answer=f.text()[:] + str(x))"]
    lm = ScriptedLM([f"```python\n{cell}\n```" for cell in cells_])
    with RLM("f: File -> answer", lm=lm, environment=environment).session() as session:
        assert [session(f=tmp_path / name).answer for name in ("one", "two")] == ["one", "two7"]


@pytest.mark.parametrize("left", ["", "g = (i for i in [1])\n"])
def test_a_session_says_that_other_files_took_a_new_worker(tmp_path, left):
    """Nothing crashed: what could not be kept is named, and where all was kept nothing is said; a File is no variable that is gone."""
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    cells_ = [f"x = 7\n{left}SUBMIT(answer=f.text()[:])", "SUBMIT(answer=f.text()[:] + str(x))"]
    with RLM("f: File -> answer", lm=ScriptedLM([f"```python\n{cell}\n```" for cell in cells_])).session() as session:
        assert session(f=tmp_path / "one").answer == "one"
        second = session(f=tmp_path / "two")
    told = "A new REPL process was started: this call gives other files, or more than the one that ran could be sent. Gone: g."
    assert second.answer == "two7"
    assert second.trajectory.iterations[0].execution.lost == (told if left else "")


@pytest.mark.parametrize("made", [Path, str, File], ids=lambda m: m.__name__)
def test_a_resumable_run_writes_the_path_down_and_not_the_file(tmp_path, made):
    """Resumed, the run opens the file again by its path; a Text of a file is refused with what to do."""
    (tmp_path / "a").write_text("content of the file")
    lm = ScriptedLM(["```python\nSUBMIT(answer=f.text()[:7])\n```"])
    trace = tmp_path / "run.jsonl"
    rlm = RLM("f: File -> answer", lm=lm, trace=trace, resumable=True)
    assert rlm(f=made(tmp_path / "a")).answer == "content"
    assert RLM.resume(trace, lm=ScriptedLM(["never"])).answer == "content"
    with pytest.raises(InputError, match="declare it File"):
        RLM("f: Text -> answer", lm=lm, trace=trace, resumable=True)(
            f=made(tmp_path / "a") if made is not str else File("x")
        )


def test_the_command_line_hands_the_path_on(tmp_path):
    """``--log @PATH`` of a File is opened by the run, not read by the command."""
    (tmp_path / "a.log").write_text("first\nsecond\n")
    signature = Signature.parse("log: File, q -> answer")
    inputs = read_inputs(signature, {"log": f"@{tmp_path / 'a.log'}", "q": "x"}, None, None, Standard())
    assert inputs == {"log": tmp_path / "a.log", "q": "x"}
