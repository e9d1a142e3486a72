"""Outputs as files: what code may write and where, what of it becomes the caller's, and that nothing else is left."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import within

from dszig_py import RLM, Budget, File, InputError, LMError, SignatureError, Strategy, Trajectory, outputs, scratch
from dszig_py.cli import main
from dszig_py.contract import SubmissionRefused, compile_contract
from dszig_py.environments import process
from dszig_py.environments.inprocess import InProcessEnvironment, InProcessSession
from dszig_py.environments.isolation import facts
from dszig_py.environments.process import ProcessEnvironment, ProcessSession
from dszig_py.errors import EnvironmentFailure
from dszig_py.outputs import Outbox, _safe
from dszig_py.scratch import Scratch
from dszig_py.signature import Signature
from dszig_py.testing import ScriptedLM

LANDLOCK = pytest.mark.skipif(sys.platform != "linux" or not facts()["landlock"], reason="writing needs Landlock")
BOTH = pytest.mark.parametrize("environment", [ProcessEnvironment(), InProcessEnvironment()], ids=lambda e: e.name)
pytestmark = LANDLOCK
WRITE = "with open(f'{scratch}/report.md', 'w') as f: f.write('# Report')"


def cell(code: str) -> str:
    return f"```python\n{code}\n```"


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """A folder of the test's own for temporary files: what is left in it is seen."""
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def run(out, *codes, signature="q -> report: File", environment: Any = None, **options: Any):
    """A run whose iterations are ``codes``."""
    rlm = RLM(
        signature,
        lm=ScriptedLM([cell(c) for c in codes]),
        environment=environment or "process",
        output_dir=out,
        **options,
    )
    return rlm(q="?")


@BOTH
def test_a_file_that_code_has_written_is_the_callers(out, temporary, environment):
    """Its path, its bytes, for nobody else to read; the record has path and size and no contents; the folder is gone."""
    prediction = run(out, WRITE, "SUBMIT(report=f'{scratch}/report.md')", environment=environment)
    path = Path(prediction.report.path)
    assert (path.parent, path.name, path.read_text(), prediction.report.size) == (out, "report.md", "# Report", 8)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert prediction.trajectory.outputs == {"report": {"path": str(path), "size": 8}}
    saved = prediction.trajectory.save(out / "run.jsonl")
    assert Trajectory.load(saved) == prediction.trajectory
    assert "the path of a file that you wrote" in prediction.trajectory.contract
    assert list(temporary.iterdir()) == []


@BOTH
def test_usual_ways_of_writing_work(out, environment):
    """open, pathlib, csv, json, zipfile, folders, temporary files, replacing, copying, removing; many files at once."""
    write = """
import csv, json, os, pathlib, shutil, tempfile, zipfile
here = pathlib.Path(scratch)
(here / "sub" / "deep").mkdir(parents=True)
with open(here / "sub/rows.csv", "w", newline="") as f: csv.writer(f).writerows([[1, 2], [3, 4]])
with open(here / "a.json", "w") as f: json.dump({"a": 1}, f)
with zipfile.ZipFile(here / "all.zip", "w") as z: z.writestr("x", "y")
with tempfile.NamedTemporaryFile("w", dir=scratch, delete=False) as f: f.write("draft")
os.replace(f.name, here / "final.txt")
os.replace(here / "final.txt", here / "sub" / "final.txt")
shutil.copy(here / "sub" / "final.txt", here / "copy.txt")
(here / "copy.txt").unlink()
with tempfile.NamedTemporaryFile(dir=scratch) as f, tempfile.TemporaryDirectory(dir=scratch) as d: (here / d / "x").touch()
assert not os.path.exists(f.name) and not os.path.exists(d)
with tempfile.TemporaryFile(dir=scratch) as f: f.write(b"x"); f.seek(0); assert f.read() == b"x"
os.rmdir(here / "sub" / "deep")
shutil.move(here / "a.json", here / "b.json")
with open(here / "b.json", "r+") as f: f.seek(0, 2); f.write(" ")
print(sorted(n for n in os.listdir(scratch) if n[0] != "."), sorted(n for n in os.listdir(here / "sub") if n[0] != "."))
"""
    submit = "SUBMIT(files=[here / 'sub' / 'rows.csv', scratch + '/b.json', 'all.zip'], named={'x': 'sub/final.txt'}, none=None)"
    signature = "q -> files: list[File], named: dict[str, File], none: File | None"
    prediction = run(out, write, submit, signature=signature, environment=environment)
    assert (
        prediction.trajectory.iterations[0].execution.stdout
        == "['all.zip', 'b.json', 'sub'] ['final.txt', 'rows.csv']\n"
    )
    assert [Path(f.path).name for f in prediction.files] == ["rows.csv", "b.json", "all.zip"]
    assert Path(prediction.files[0].path).read_bytes() == b"1,2\r\n3,4\r\n"
    assert Path(prediction.files[1].path).read_text() == '{"a": 1} '
    assert Path(prediction.named["x"].path).read_text() == "draft"
    assert prediction.none is None


@BOTH
def test_what_is_still_open_is_written_out_first(out, environment):
    """A file that was never closed is submitted whole: what Python holds back of it is not lost."""
    prediction = run(
        out,
        "f = open(f'{scratch}/a.txt', 'w')\nf.write('x' * 10_001)",
        "try:\n    SUBMIT(report='a.txt')\nfinally:\n    f.close()",
        environment=environment,
    )
    assert Path(prediction.report.path).read_text() == "x" * 10_001


REFUSED = {
    "'..'": "no file beneath",
    "'../../etc/passwd'": "no file beneath",
    "'sub/../report.md'": "no file beneath",
    "'/etc/passwd'": "no file beneath",
    "os.path.dirname(os.path.abspath(scratch)) + '/x'": "no file beneath",
    "'.'": "no file beneath",
    "''": "no path",
    "'a\\0b'": "no path",
    "'sub'": "a folder",
    "'absent'": "holds 'empty', 'report.md', 'sub'",
    "'\\ud800'": "cannot be opened",
    "'x' * 5000": "cannot be opened",
    "'report.md/x'": "not beneath",
    "'empty'": "is empty",
    "7": "path of a file",
    "b'report.md'": "path of a file",
    "open(f'{scratch}/report.md')": "cannot be submitted",
}


def test_a_path_that_will_not_do_is_refused_and_the_run_goes_on(out):
    """Outside, no regular file, empty, not there: each is told to the code that called SUBMIT, and costs nothing else."""
    write = f"{WRITE}\nimport os\nos.mkdir(f'{{scratch}}/sub')\nopen(f'{{scratch}}/empty', 'w').close()"
    tries = [f"try:\n    SUBMIT(report={given})\nexcept ValueError as error:\n    print(error)" for given in REFUSED]
    prediction = run(out, write, *tries, "SUBMIT(report='report.md')", max_iters=40)
    said = [i.execution.stdout for i in prediction.trajectory.iterations[1:-1]]
    wrong = {g: s for (g, wanted), s in zip(REFUSED.items(), said, strict=True) if wanted not in s}
    assert wrong == {}
    assert prediction.termination.kind == "submitted"
    assert os.listdir(out) == ["report.md"]


def test_a_file_that_is_too_large_or_grows_meanwhile_is_not_delivered(out, monkeypatch):
    """The host judges the size by itself, before the copy and during it; nothing of such a file is left."""
    contract = compile_contract(Signature.parse("q -> report: File"), {"q": "?"})
    box = Outbox(str(out), Scratch(1000))
    large = Path(box.scratch.path) / "large"
    large.write_bytes(b"x" * 1001)
    with pytest.raises(ValueError, match="has 1,001 bytes, at most 1,000"):
        contract.validate([], {"report": "large"}, outputs.Collection(box))
    large.write_bytes(b"x")
    copied = outputs._copied

    def growing(source, *rest):
        large.write_bytes(b"x" * 1001)
        return copied(source, *rest)

    monkeypatch.setattr(outputs, "_copied", growing)
    with pytest.raises(SubmissionRefused, match="over the 1,000 bytes"):
        contract.validate([], {"report": "large"}, outputs.Collection(box))
    box.scratch.close()
    assert not out.exists() or os.listdir(out) == []


@pytest.mark.parametrize("what", ["link", "link of a folder", "second name", "fifo", "socket", "outside"])
def test_nothing_but_a_regular_file_of_its_own_is_taken(tmp_path, what):
    """What a trusted environment could put there: links, second names and special files are refused, without being opened."""
    folder, secret = Scratch(), tmp_path / "secret"
    secret.write_text("secret")
    place = Path(folder.path) / "x"
    given = "x"
    if what == "link":
        place.symlink_to(secret)
    elif what == "link of a folder":
        place.symlink_to(tmp_path)
        given = "x/secret"
    elif what == "second name":
        os.link(secret, place)
    elif what == "fifo":
        os.mkfifo(place)  # opening it for reading alone would wait for ever
    elif what == "socket":
        import socket

        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(place))
    else:
        given = str(secret)
    with pytest.raises(ValueError, match="link|names|regular|beneath"):
        folder.opened(given)
    folder.close()
    assert secret.read_text() == "secret"
    assert not Path(folder.path).exists()


PARTS = st.lists(st.sampled_from(["..", ".", "", "a", "b", "link", "\n", "\udc80", "é"]), max_size=6)


@given(PARTS, st.booleans())
@settings(max_examples=200)
def test_no_path_leads_out_of_the_folder(parts, absolute):
    """Whatever a path is made of, what is opened is a file that was written inside, or nothing."""
    folder = Scratch()
    try:
        for name in ("a/a", "a/é", "b"):
            path = Path(folder.path) / name
            path.parent.mkdir(exist_ok=True)
            path.write_text("inside")
        (Path(folder.path) / "link").symlink_to("/")
        try:
            fd = folder.opened(("/" if absolute else "") + "/".join(parts))
        except ValueError:
            return
        with open(fd, encoding="utf-8") as file:
            assert file.read() == "inside"
    finally:
        folder.close()


@given(st.text(st.characters(), max_size=300))
@settings(max_examples=300)
def test_a_name_is_made_safe_whatever_it_was(name):
    """One part of a path, short enough, without control characters, no option and not hidden; a usual one stays."""
    safe = _safe(name)
    assert safe == os.path.basename(safe)
    assert safe.isprintable()
    assert 0 < len(safe.encode()) <= 150
    assert safe[0] not in ".-"
    assert _safe(f"{safe[:20]}.md").endswith(".md")


def test_names_are_kept_apart_and_nothing_is_written_over(out):
    """report.md, then report-2.md; a newline, invalid UTF-8 and markup in a name do no harm; two of one name are both there."""
    out.mkdir()
    (out / "report.md").write_text("mine")
    names = ["report.md", "a/report.md", "line\nend.txt", "caf\udce9.txt", "<b>x&y.html", "-rf", ".hidden"]
    write = f"import os\nos.mkdir(f'{{scratch}}/a')\nnames = {names!r}\nfor n in names:\n    open(f'{{scratch}}/{{n}}', 'w').write(n.encode('utf-8', 'replace').decode())"
    prediction = run(out, write, "SUBMIT(files=[f'{scratch}/{n}' for n in names])", signature="q -> files: list[File]")
    found = [Path(f.path).name for f in prediction.files]
    assert found == ["report-2.md", "report-3.md", "line_end.txt", "caf_.txt", "_b_x_y.html", "rf", "hidden"]
    assert (out / "report.md").read_text() == "mine"
    saved = prediction.trajectory.save(out / "run.jsonl")
    assert Trajectory.load(saved) == prediction.trajectory
    assert "<b>x" not in prediction._repr_html_()


def test_what_is_delivered_is_what_was_submitted(out):
    """A file rewritten, replaced or removed after SUBMIT has taken it stays in the caller's folder as it was."""
    code = f"""{WRITE}
import os, threading
t = threading.Thread(target=lambda: SUBMIT(report=f'{{scratch}}/report.md'))
t.start()
t.join()
open(f'{{scratch}}/report.md', 'w').write('changed')
os.replace(f'{{scratch}}/report.md', f'{{scratch}}/other')
"""
    prediction = run(out, code)
    assert Path(prediction.report.path).read_text() == "# Report"


def test_of_two_submissions_one_is_delivered(out):
    """Threads that both SUBMIT: the first accepted one is the prediction, and the other leaves no file behind."""
    code = f"""{WRITE}
import threading
both = [threading.Thread(target=lambda: SUBMIT(report=f'{{scratch}}/report.md')) for _ in range(2)]
for t in both: t.start()
for t in both: t.join()
"""
    prediction = run(out, code)
    assert os.listdir(out) == [Path(prediction.report.path).name]


def test_no_more_is_delivered_than_the_folder_may_hold(out):
    """One file by three hundred spellings is one copy; code that goes on submitting after it was accepted delivers nothing."""
    code = f"""{WRITE}
import time
files = ["./" * n + "report.md" for n in range(300)]
for _ in range(3):
    try:
        SUBMIT(files=files)
    except BaseException as error:
        print(type(error).__name__)
"""
    prediction = run(out, code, signature="q -> files: list[File]")
    assert len(prediction.files) == 300
    assert {id(file) for file in prediction.files} == {id(prediction.files[0])}
    assert prediction.trajectory.iterations[0].execution.stdout == "Submitted\nValueError\nValueError\n"
    assert os.listdir(out) == ["report.md"]


def test_the_callers_check_sees_the_file_and_what_it_refuses_is_taken_back(out):
    """``check`` can open what was delivered; a refused one is gone, and the next is delivered under its own name."""
    seen = []

    def check(outputs):
        seen.append(Path(outputs["report"].path).read_text())
        return None if len(seen) > 1 else "longer, please"

    prediction = run(out, WRITE, *["SUBMIT(report='report.md')"] * 2, check=check)
    assert seen == ["# Report"] * 2
    assert os.listdir(out) == ["report.md"]
    assert prediction.report.size == 8


def extracting(reply, *cells):
    script = [cell(code) for code in cells]
    return RLM("q -> report: File, n: int", lm=ScriptedLM([*script, reply]), max_iters=len(script))


@pytest.mark.parametrize(
    ("said", "delivered"), [("report.md", True), ("/etc/passwd", False), (None, False), ("no", False)]
)
def test_a_run_without_a_submit_gives_a_file_that_was_written_or_none(out, monkeypatch, said, delivered):
    """The closing call may name a file in the folder; any other path is None with the reason, never the model's word."""
    rlm = extracting(json.dumps({"report": said, "n": 3}), WRITE)
    rlm.output_dir = str(out)
    prediction = rlm(q="?")
    assert prediction.n == 3
    assert (prediction.report is not None) == delivered
    if delivered:
        assert Path(prediction.report.path).read_text() == "# Report"
    else:
        assert "report:" in prediction.termination.detail
        assert not out.exists() or os.listdir(out) == []


def test_code_cannot_fill_the_disk(out, temporary, monkeypatch):
    """One file is stopped at the cap by the kernel; many, nested or shut ones end the worker, empty the folder, and the run goes on."""
    monkeypatch.setattr(process, "_LOOK_SECONDS", 0.01)
    one = "f = open(f'{scratch}/a', 'wb')\nf.write(b'x' * 3_000_000)"
    wait = "while True: time.sleep(0.01)"
    many = f"import time\nfor i in range(5): open(f'{{scratch}}/{{i}}', 'wb').write(b'x' * 600_000)\n{wait}"
    removed = f"import os, time\nheld = []\nfor i in range(5):\n    held.append(open(f'{{scratch}}/t', 'wb'))\n    os.remove(f'{{scratch}}/t')\n    held[-1].write(b'x' * 600_000); held[-1].flush()\n{wait}"
    deep = f"import os, time\np = scratch\nfor i in range(60):\n    p += '/d'\n    os.mkdir(p)\n{wait}"
    ok = f"import os\nprint(os.listdir(scratch))\n{WRITE}\nSUBMIT(report='report.md')"
    for filling in (many, removed, deep):
        prediction = run(out, one, "f = None", filling, ok, environment=ProcessEnvironment(scratch="1MiB"))
        first, _, second, last = prediction.trajectory.iterations
        assert "File too large" in first.observation
        assert "`scratch` folder is emptied" in second.execution.lost
        assert last.execution.stdout == "[]\n"
        assert prediction.report.size == 8
    assert list(temporary.iterdir()) == []


def test_what_a_folder_holds_is_measured_whatever_is_in_it():
    """Bytes, entries, depth and folders that are shut each count; holes count as bytes; the smallest folder is none."""
    folder = Scratch(1 << 20, 50)
    inside = Path(folder.path)
    assert folder.overfull() == ""
    os.truncate(os.open(inside / "holes", os.O_CREAT | os.O_WRONLY), 2 << 20)
    assert "over 1 MiB" in folder.overfull()
    folder.empty()
    for number in range(51):
        (inside / str(number)).write_text("")
    assert "50 files" in folder.overfull()
    folder.empty()
    inside.joinpath(*"d" * 40).mkdir(parents=True)
    assert "levels" in folder.overfull()
    folder.close()
    assert not inside.exists()


def test_a_folder_that_becomes_a_file_while_it_is_measured_hides_nothing(monkeypatch):
    """As with one that is renamed: looked at again, and a folder in which that never ends is over its bounds."""
    folder = Scratch(1 << 20, 50)
    (Path(folder.path) / "a").mkdir()
    looks = []

    def swapped(name, *rest):
        if name == "a":
            looks.append(name)
            raise NotADirectoryError(20, "Not a directory")
        return opened(name, *rest)

    opened = scratch._opened
    monkeypatch.setattr(scratch, "_opened", swapped)
    assert "faster than it could be measured" in folder.overfull() and len(looks) > 1
    monkeypatch.undo()
    folder.close()


def test_a_path_of_very_many_folders_costs_no_descriptors():
    """Each folder on the way to a file is one: more of them than a folder may have are refused unopened."""
    folder = Scratch()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ValueError, match="nested over 32 levels"):
        folder.opened("d/" * 100_000 + "x")
    assert len(os.listdir("/proc/self/fd")) == before
    folder.close()


def test_a_list_of_very_many_wrong_paths_is_not_looked_through(out, monkeypatch):
    """Each costs a look into the folder, and what is told of a wrong one a listing: after twenty the rest is refused unseen."""
    contract = compile_contract(Signature.parse("q -> files: list[File]"), {"q": "?"})
    box = Outbox(str(out), Scratch())
    looks = []
    opened = Scratch.opened
    monkeypatch.setattr(Scratch, "opened", lambda self, given: looks.append(given) or opened(self, given))
    with pytest.raises(SubmissionRefused, match="'x0' does not exist.*and 4995 more"):
        contract.validate([], {"files": [f"x{n}" for n in range(5000)]}, outputs.Collection(box))
    assert len(looks) == 20
    box.scratch.close()


def test_any_depth_and_any_mode_is_removed():
    """A folder nested beyond what a path can name, and ones shut to their owner, go with the scratch folder."""
    folder = Scratch()
    fd = os.open(folder.path, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d" * 20, dir_fd=fd)
        fd, outer = os.open("d" * 20, os.O_RDONLY, dir_fd=fd), fd
        os.close(outer)
    os.close(fd)
    (Path(folder.path) / "shut" / "in").mkdir(parents=True)
    os.chmod(Path(folder.path) / "shut" / "in", 0)
    os.chmod(Path(folder.path) / "shut", 0)
    folder.close()
    assert not Path(folder.path).exists()


def test_the_folder_is_gone_however_a_run_ends(out, temporary):
    """A provider that fails, a worker that dies for good, a caller that cancels: nothing is left, and nothing was delivered."""

    def failing(request):
        assert len(list(temporary.iterdir())) == 1
        raise LMError("no more", retryable=False)

    with pytest.raises(LMError):
        RLM("q -> report: File", lm=ScriptedLM([cell(WRITE), failing]), output_dir=out)(q="?")
    with pytest.raises(EnvironmentFailure):
        run(out, *["import os; os._exit(1)"] * 3)

    async def cancelled():
        entered = asyncio.Event()
        tools = {"tell": lambda: loop.call_soon_threadsafe(entered.set)}
        loop = asyncio.get_running_loop()
        lm = ScriptedLM([cell(f"{WRITE}\ntell()\nimport time\ntime.sleep(600)")])
        task = asyncio.create_task(RLM("q -> report: File", lm=lm, tools=tools, output_dir=out).acall(q="?"))
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert list(temporary.iterdir()) == []
    assert not out.exists() or os.listdir(out) == []


KILLED = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from dszig_py import RLM
from dszig_py.testing import ScriptedLM
code = "open(f'{scratch}/x', 'w').write('x')\\ntell()\\nimport time\\ntime.sleep(600)"
RLM("q -> report: File", lm=ScriptedLM(["```python\\n" + code + "\\n```"]), tools={"tell": lambda: print("on", flush=True)}, output_dir=sys.argv[1] + "/out")(q="?")
"""


@pytest.mark.parametrize(
    ("environment", "session", "step"),
    [(ProcessEnvironment(), ProcessSession, "start"), (InProcessEnvironment(), InProcessSession, "bind")],
    ids=["process", "inprocess"],
)
def test_a_start_that_is_cancelled_with_its_task_group_leaves_no_folder(
    out, temporary, environment, session, step, monkeypatch
):
    """A scope that is cancelled cancels the closing too, unless that is shielded; not left to the garbage collector."""
    begun = anyio.Event()

    async def never(*_):
        assert len(list(temporary.iterdir())) == 1
        begun.set()
        await anyio.sleep_forever()

    monkeypatch.setattr(session, step, never)
    rlm = RLM("q -> report: File", lm=ScriptedLM([cell(WRITE)]), environment=environment, output_dir=out)

    async def go():
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: rlm.acall(q="?"))
            await begun.wait()
            group.cancel_scope.cancel()

    gc.disable()
    try:
        asyncio.run(go())
        assert list(temporary.iterdir()) == []
    finally:
        gc.enable()


def test_what_a_killed_process_leaves_is_removed_by_the_next(temporary, monkeypatch):
    """After SIGKILL the folder stays until another process makes one; a folder somebody holds, or a fresh one, is let be."""
    host = subprocess.Popen([sys.executable, "-c", KILLED, str(temporary)], stdout=subprocess.PIPE, text=True)
    assert host.stdout.readline() == "on\n"
    (left,) = temporary.glob("dszig-scratch-*")
    os.utime(left, (1, 1))

    def swept():
        scratch._swept.clear()
        Scratch().close()
        return not left.exists()

    assert not swept()
    os.kill(host.pid, signal.SIGKILL)
    host.wait()
    host.stdout.close()
    within(swept)  # the worker ends when it sees that its host is gone
    fresh = temporary / "dszig-scratch-fresh"
    fresh.mkdir()
    scratch._swept.clear()
    Scratch().close()
    assert fresh.exists()


def test_a_submission_that_came_too_late_does_not_count(out):
    """A thread that SUBMITs between two cells is not heard, keeps nothing from being submitted, and leaves no file."""
    late = f"{WRITE}\nimport threading\ndef late():\n    import time\n    time.sleep(1)\n    SUBMIT(report='report.md')\nt = threading.Thread(target=late)\nt.start()"
    seen = []

    def decided(prompt):
        if "def late" not in prompt:
            return cell(late)
        within(lambda: out.exists() and os.listdir(out))
        seen.extend(os.listdir(out))
        return cell("t.join()\nSUBMIT(report='report.md')")

    prediction = RLM("q -> report: File", lm=decided, output_dir=out)(q="?")
    assert seen == os.listdir(out) == ["report.md"]
    assert prediction.report.size == 8


UNCLOSED = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from dszig_py import RLM
rlm = RLM("context -> report: File", lm="offline", output_dir=sys.argv[1] + "/out")
session = rlm.session()
print(session(context="Paris is the capital of France.").report.path)
"""


def test_a_session_nobody_closed_leaves_nothing_and_the_stand_in_writes_files(temporary):
    """The folder goes with the process at the latest; offline, the answer is in the file."""
    ran = subprocess.run([sys.executable, "-c", UNCLOSED, str(temporary)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == f"{temporary}/out/answer.txt\n"
    assert (temporary / "out" / "answer.txt").read_text() == "Paris is the capital of France."
    assert os.listdir(temporary) == ["out"]


@BOTH
def test_calls_of_a_session_share_the_folder(out, temporary, environment):
    """What one call has written the next can read and submit; it goes with the session."""
    lm = ScriptedLM(
        [
            cell(f"{WRITE}\nSUBMIT(report='report.md')"),
            cell("with open(f'{scratch}/report.md') as f: print(f.read())"),
            cell("SUBMIT(report='report.md')"),
        ]
    )
    with RLM("q -> report: File", lm=lm, environment=environment, output_dir=out).session() as session:
        first, second = session(q="?"), session(q="again")
        assert second.trajectory.iterations[0].execution.stdout == "# Report\n"
        assert len(list(temporary.iterdir())) == 1
    assert {Path(p.report.path).name for p in (first, second)} == {"report.md", "report-2.md"}
    assert list(temporary.iterdir()) == []


def test_a_worker_that_dies_leaves_the_files_to_the_next(out):
    """What was written before a crash is there afterwards, as the folder is not the worker's."""
    prediction = run(out, WRITE, "import os; os._exit(1)", "SUBMIT(report=f'{scratch}/report.md')")
    assert prediction.trajectory.iterations[1].execution.lost
    assert "scratch" not in prediction.trajectory.iterations[1].execution.lost
    assert prediction.report.size == 8


def test_a_resumed_run_writes_its_file_again(tmp_path, out):
    """The code is executed again in a new folder, its prompts are what they were, no model is asked, the options are kept."""
    trace = tmp_path / "run.jsonl"
    script = [cell(f"{WRITE}\nprint(scratch)"), cell("SUBMIT(report='nope')"), cell("SUBMIT(report='report.md')")]
    first = RLM("q -> report: File", lm=ScriptedLM(script), output_dir=out, trace=trace, resumable=True)(q="?")
    again = RLM.resume(trace, lm=ScriptedLM([]))
    assert [Path(p.report.path).name for p in (first, again)] == ["report.md", "report-2.md"]
    assert [i.observation for i in again.trajectory.iterations] == [i.observation for i in first.trajectory.iterations]


def test_results_of_a_corpus_are_files_when_they_are_read_again(tmp_path, out):
    """rlm.map keeps path and size: a second pass gives the same files, without a run."""
    rlm = RLM("q -> report: File", lm=lambda _: cell(f"{WRITE}\nSUBMIT(report='report.md')"), output_dir=out)
    first = {m.index: m.outputs["report"] for m in rlm.map([{"q": "a"}, {"q": "b"}], path=tmp_path / "r.jsonl")}
    again = {m.index: m.outputs["report"] for m in rlm.map([{"q": "a"}, {"q": "b"}], path=tmp_path / "r.jsonl")}
    assert first == again
    assert {type(file) for file in again.values()} == {File}
    assert [file.size for file in again.values()] == [8, 8]
    assert len(os.listdir(out)) == 2


@pytest.mark.parametrize("environment", ["script", "interpreter"])
def test_where_no_file_can_be_written_that_is_said_before_any_call(out, environment):
    """An environment without a folder to write in refuses, naming the output and the way out."""
    if environment == "interpreter":
        from dszig_py.environments.interpreter import InterpreterEnvironment

        class Interpreter:
            tools: dict[str, Any] = {}

            def execute(self, code, variables=None):
                return ""

            def start(self): ...

            def shutdown(self): ...

        environment = InterpreterEnvironment(Interpreter)
    with pytest.raises(InputError, match=r"report.*process"):
        run(out, "SUBMIT(1)", environment=environment)


def test_what_cannot_go_with_files_is_refused(out, monkeypatch):
    """An input or a tool called scratch, the direct route, an output folder that is none, a kernel without Landlock."""
    with pytest.raises(SignatureError, match="scratch"):
        RLM("scratch -> report: File", lm=ScriptedLM([]), output_dir=out)(scratch="x")
    with pytest.raises(SignatureError, match="scratch"):
        run(out, tools={"scratch": lambda: 1})
    with pytest.raises(InputError, match="only code can write"):
        run(out, strategy=Strategy(route="direct"))
    out.mkdir()
    (out / "file").write_text("a file")
    with pytest.raises(InputError, match="output_dir"):
        run(out / "file")
    without = {**facts(), "landlock": 0}
    real = process.boundary
    monkeypatch.setattr(process, "boundary", lambda _facts, **options: real(without, **options))
    with pytest.raises(InputError, match="Landlock"):
        run(out)


def test_the_automatic_route_takes_the_loop_for_files(out):
    """A short input alone would go into one typed call, which cannot write."""
    prediction = run(out, f"{WRITE}\nSUBMIT(report='report.md')", strategy=Strategy(route="auto"))
    assert prediction.trajectory.route.startswith("loop: an output is a file")


def test_a_sub_call_gives_no_files(out):
    """A child's files would be the parent's to place: refused at the line of the call."""
    asked = "try:\n    rlm_query('q -> report: File', q='?')\nexcept ValueError as error:\n    print(error)"
    prediction = run(out, asked, f"{WRITE}\nSUBMIT(report='report.md')", budget=Budget(max_depth=1))
    assert "takes and gives no File" in prediction.trajectory.iterations[0].execution.stdout


def test_the_isolation_says_what_can_be_written(out):
    """``covered`` names the one exception to writing nothing; without such an output it is as before."""

    async def covered(signature):
        contract = compile_contract(Signature.parse(signature), {"q": "?"})
        from dszig_py.environments.base import CellLimits
        from dszig_py.testing import RecordingHost

        session = await ProcessEnvironment(scratch=1000).open(contract, RecordingHost(contract), CellLimits())
        await session.close()
        return session.isolation.covered[0]

    assert "and write nothing" in asyncio.run(covered("q -> a"))
    assert "beneath a folder of its own alone, 1,000 bytes" in asyncio.run(covered("q -> report: File"))


@pytest.mark.parametrize("package", ["openpyxl", "pandas", "docx", "matplotlib"])
def test_packages_write_their_formats(out, package):
    """Spreadsheets, documents, tables and pictures, by the libraries themselves, imported where no more code can be mapped."""
    pytest.importorskip(package)
    code = {
        "openpyxl": "import openpyxl\nb = openpyxl.Workbook()\nb.active.append([1, 2])\nb.save(f'{scratch}/x')",
        "pandas": "import pandas\npandas.DataFrame({'a': [1.5, 2]}).to_csv(f'{scratch}/x')",
        "docx": "import docx\nd = docx.Document()\nd.add_heading('Report')\nd.save(f'{scratch}/x')",
        "matplotlib": "import os\nos.environ['MPLCONFIGDIR'] = scratch\nimport matplotlib\nmatplotlib.use('agg')\nimport matplotlib.pyplot as p\np.plot([1, 2])\np.savefig(f'{scratch}/x', format='png')",
    }[package]
    environment = ProcessEnvironment(
        packages=[{"docx": "python-docx"}.get(package, package)], memory="4GiB", cell_seconds=120
    )
    prediction = run(out, code, "SUBMIT(report='x')", environment=environment, max_iters=2)
    assert prediction.termination.kind == "submitted", prediction.trajectory.iterations[0].observation
    assert prediction.report.size > 10


def test_the_command_line_prints_where_the_file_is(out, capsys, tmp_path, monkeypatch):
    """--output-dir: one file is its path on standard output; --json has path and size."""
    monkeypatch.setenv("DSZIG_RUNS_DIR", str(tmp_path / "runs"))
    reply = tmp_path / "reply"
    reply.write_text(cell(f"{WRITE}\nSUBMIT(report='report.md')"))
    args = ["q -> report: File", "--q", "?", "--output-dir", str(out), "-q", "--main-cmd", f"cat {reply}"]
    assert main(args) == 0
    assert capsys.readouterr().out == f"{out}/report.md\n"
    assert main([*args, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outputs"] == {"report": {"path": f"{out}/report-2.md", "size": 8}}
