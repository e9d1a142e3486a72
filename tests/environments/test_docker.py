"""Containers: the command, the worker by itself behind an engine that only pretends, and a real one where one runs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path

import anyio
import container_image
import pytest
from waiting import eventually

from dszig_py import RLM, File, Folder, Text
from dszig_py.contract import compile_contract
from dszig_py.environments import docker, inputs
from dszig_py.environments.base import CellLimits
from dszig_py.environments.docker import DockerEnvironment
from dszig_py.errors import EnvironmentFailure, InputError
from dszig_py.signature import Field, Signature
from dszig_py.testing import RecordingHost, ScriptedLM, check_environment
from dszig_py.testing.conformance import CHECKS
from dszig_py.testing.report import Bench

# What ``docker`` does as far as we use it, without a container: the shared folder and what is mounted are where they are.
PRETENDER = """\
#!{python}
import json, os, signal, sys
here = os.path.dirname(os.path.abspath(__file__))
verb, args = sys.argv[1], sys.argv[2:]
with open(os.path.join(here, "log"), "a") as log:
    log.write(json.dumps(sys.argv[1:]) + "\\n")
if verb == "run":
    with open(os.path.join(here, args[args.index("--name") + 1]), "w") as file:
        file.write(str(os.getpid()))
    folder = args[args.index("--volume") + 1].split(":")[0]
    if args[args.index("--entrypoint") + 2] == "missing":
        sys.exit("Unable to find image 'missing' locally")
    if args[args.index("--entrypoint") + 2] == "slow":
        import time
        time.sleep(600)
    program = [a.replace("/run/dszig", folder) for a in args[args.index("--entrypoint") + 3:]]
    for number, given in enumerate(args[:-1]):
        if given == "--mount":
            mount = dict(part.partition("=")[::2] for part in args[number + 1].split(","))
            path = json.dumps(os.path.realpath(mount["src"]))[1:-1]
            program[-1] = program[-1].replace(json.dumps(mount["dst"]), f'"{{path}}"')
    os.execv({python!r}, [{python!r}, *program])
if verb == "kill":
    try:
        pid = int(open(os.path.join(here, args[2])).read())
        if "slow" not in open(f"/proc/{{pid}}/cmdline").read().split("\\0"):
            os.kill(pid, getattr(signal, "SIG" + args[1]))
            sys.exit(0)
    except (OSError, ValueError):
        pass
    sys.exit(1)
"""


@pytest.fixture
def pretender(tmp_path, monkeypatch):
    """A ``docker`` first on the path, in a folder of its own, with a log of what it was asked."""
    program = tmp_path / "docker"
    program.write_text(PRETENDER.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(docker, "_running", {})
    (tmp_path / "shared").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "shared"))  # other runs of these tests share there, too
    return tmp_path


@contextlib.asynccontextmanager
async def a_session(environment, values=None, functions=None, seconds=None):
    fields = tuple(Field(name, object) for name in values or {})
    contract = compile_contract(Signature(fields, (Field("answer", object),)), values or {})
    session = await environment.open(contract, RecordingHost(contract, functions), CellLimits(seconds=seconds))
    try:
        yield session
    finally:
        await session.close()


def run(environment, *cells, **options):
    async def go():
        async with a_session(environment, **options) as session:
            return [await session.execute(code) for code in cells]

    return asyncio.run(go())


def shared_folders():
    return set(Path(tempfile.gettempdir()).glob("dszig-*"))


def pairs(command):
    return list(zip(command, command[1:], strict=False))


def test_the_command_takes_everything_away():
    """No network, read-only, nobody, no capabilities, no new privileges, bounds on processes, memory and processors."""
    environment = DockerEnvironment(image="img@sha256:1", memory="512m", pids=50, cpus=1.5)
    command = environment.command("docker", "n1", "/folder", {"a": 1})
    assert command[:2] == ["docker", "run"]
    size = str(512 << 20)
    wanted = {
        "--network": "none",
        "--ipc": "none",
        "--cap-drop": "ALL",
        "--security-opt": "no-new-privileges",
        "--user": "65534:65534",
        "--pids-limit": "50",
        "--memory": size,
        "--memory-swap": size,
        "--cpus": "1.5",
        "--tmpfs": "/tmp:size=64m,noexec,nosuid,nodev",
        "--log-driver": "none",
        "--name": "n1",
        "--entrypoint": "python3",
    }
    assert set(wanted.items()) <= set(pairs(command))
    assert {"--rm", "--interactive", "--read-only"} <= set(command)
    mounts = [value for flag, value in pairs(command) if flag in ("--volume", "-v", "--mount")]
    assert [mount.removesuffix(",Z") for mount in mounts] == ["/folder:/run/dszig:ro"]
    assert not {"--privileged", "--device", "--cap-add", "--pid"} & set(command)
    at = command.index("img@sha256:1")
    assert command[at + 1 :] == ["-s", "-P", "-B", "/run/dszig/worker/standalone.py", json.dumps({"a": 1})]


def test_another_runtime_is_asked_for_where_each_engine_wants_it():
    """Podman takes it before the verb."""
    environment = DockerEnvironment(runtime="runsc")
    assert environment.command("docker", "n", "/f", {})[:4] == ["docker", "run", "--runtime", "runsc"]
    assert environment.command("podman", "n", "/f", {})[:4] == ["podman", "--runtime", "runsc", "run"]
    assert "podman with runsc" in " ".join(environment.isolation("podman").covered)


def test_options_that_make_no_sense_are_refused_at_once():
    """Before anything is started."""
    with pytest.raises(InputError, match="'auto', 'docker' or 'podman'"):
        DockerEnvironment(engine="lxc")
    with pytest.raises(InputError, match="no size"):
        DockerEnvironment(memory="much")


def test_without_an_engine_it_refuses_and_says_what_each_answered(monkeypatch, tmp_path):
    """Not installed is told from not running; no model is called."""
    monkeypatch.setattr(docker, "_running", {})
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentFailure, match=r"docker: not installed; podman: not installed"):
        DockerEnvironment().find_engine()
    program = tmp_path / "docker"
    program.write_text("#!/bin/sh\necho 'Cannot connect to the Docker daemon' >&2\nexit 1\n")
    program.chmod(0o755)
    lm = ScriptedLM([])
    with pytest.raises(
        EnvironmentFailure, match=r"docker: does not run: Cannot connect to the Docker daemon; podman: not"
    ):
        RLM("t -> answer", lm=lm, environment="docker")(t="")


def test_what_is_shared_is_closed_to_other_users_and_readable_in_the_container():
    """The worker's program and the inputs whole, nothing else."""
    text, raw = "ü\ud800" * 40_000, b"\x00\xff" * 40_000
    packed = inputs.pack({"text": text, "raw": raw, "small": 1})
    folder, specs, mounts = docker.share(packed)
    try:
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
        shared = Path(folder, "shared")
        assert {p.name for p in shared.iterdir()} == {"worker", "input-0", "input-1"}
        assert mounts == {}
        at = "/run/dszig/input-"
        assert [spec[:3] for spec in specs] == [["text", "text", f"{at}0"], ["raw", "bytes", f"{at}1"]]
        assert shared.joinpath("input-0").read_bytes().decode("utf-8", "surrogatepass") == text
        assert shared.joinpath("input-1").read_bytes() == raw
        assert all(p.stat().st_mode & 0o004 for p in shared.rglob("*"))
        assert not any(p.stat().st_mode & 0o022 for p in shared.rglob("*"))
    finally:
        docker.remove(folder)
        packed.release()


def test_the_worker_by_itself_does_all_that_is_asked_of_an_environment(pretender):
    """The whole suite, over standard input and output of a process that is no container."""
    before = shared_folders()
    report = check_environment(DockerEnvironment(engine="docker"), hostile=False)
    assert not report.failed, str(report)
    assert report.isolation == "container"
    assert shared_folders() == before


def test_inputs_are_off_the_disk_once_they_are_read(pretender):
    """Also those of a second worker, and nothing stays after the close."""
    before = shared_folders()
    text = "line\n" * 100_000

    async def go():
        async with a_session(DockerEnvironment(), {"context": text}) as session:
            values = [(await session.execute("len(context)")).value]
            assert shared_folders() == before
            assert "lost" in (await session.execute("import os; os._exit(1)")).lost
            values.append((await session.execute("len(context)")).value)
            assert shared_folders() == before
            return values

    assert asyncio.run(go()) == ["500000"] * 2
    assert shared_folders() == before


def test_what_the_engine_said_is_told_where_a_worker_does_not_start(pretender):
    """An image that is not there; nothing is left behind."""
    before = shared_folders()
    with pytest.raises(EnvironmentFailure, match="docker run: Unable to find image 'missing' locally"):
        run(DockerEnvironment(image="missing"), "1")
    assert shared_folders() == before


def test_cancelling_while_an_image_is_fetched_ends_it(pretender):
    """There is no container to kill then, but the command that fetches, which would go on for long."""
    before = shared_folders()

    async def go():
        task = asyncio.ensure_future(DockerEnvironment(image="slow").open(*given()))
        while not any('"run"' in line for line in (pretender / "log").read_text().splitlines() if pretender / "log"):
            await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 60)
        await eventually(lambda: not running_in(pretender))

    def given():
        contract = compile_contract(Signature.parse("t -> answer"), {"t": ""})
        return contract, RecordingHost(contract), CellLimits()

    (pretender / "log").touch()
    asyncio.run(go())
    assert shared_folders() == before


READ = """
print(log.name, log.size, log.text()[:5], sorted(docs), docs["sub/b.txt"].text()[:], note.count("é"), docs.grep("sec"))
for way_out in ("../secret", "link", "pipe"):
    try: print("BREACH", docs[way_out].text()[:])
    except OSError as error: print(type(error).__name__)
"""
READ_SAID = """app.log 12 first ['a.txt', 'link', 'pipe', 'sub/'] second 40000 [('sub/b.txt', 1, 'second')]
PermissionError
PermissionError
PermissionError"""


def files_in(tmp_path, name="app.log"):
    """A file, a folder with a link and a pipe, and a text; readable to all, for nobody is who reads them."""
    folder = tmp_path / "docs"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / name).write_text("first\nsecond")
    (folder / "a.txt").write_text("nothing")
    (folder / "sub" / "b.txt").write_text("second")
    (tmp_path / "secret").write_text("SECRET")
    (folder / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(folder / "pipe")
    for path in (tmp_path / name, *folder.rglob("*"), folder):
        if not path.is_symlink():
            path.chmod(0o755)
    return {"log": File(tmp_path / name), "docs": Folder(folder), "note": Text("né" * 40_000)}


def running_in(folder):
    """Processes that were started with a path in ``folder``, as whatever the pretender is or has become."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has just ended
            if str(folder).encode() in entry.read_bytes():
                found.append(entry.parent.name)
    return found


def test_a_start_that_is_cancelled_with_its_task_group_leaves_nothing(pretender, monkeypatch):
    """A child run's scope ends while inputs are still being copied: no folder with them stays, and no container."""
    copying, cancelled, started = threading.Event(), threading.Event(), threading.Event()
    share, start = docker.share, subprocess.Popen

    def starting(command, **options):
        started.set()
        return start(command, **options)

    monkeypatch.setattr(subprocess, "Popen", starting)

    def slow(packed):
        copying.set()
        cancelled.wait(60)
        return share(packed)

    monkeypatch.setattr(docker, "share", slow)

    async def go():
        async def opened():
            async with a_session(DockerEnvironment(image="fine"), {"text": "x" * 100_000}):
                pytest.fail("it was cancelled before")

        async with anyio.create_task_group() as group:
            group.start_soon(opened)
            await asyncio.to_thread(copying.wait)
            group.cancel_scope.cancel()
            cancelled.set()

    asyncio.run(go())
    assert shared_folders() == set()
    assert started.is_set() and running_in(pretender) == []


def test_files_are_mounted_where_they_are_and_never_copied(pretender):
    """A File, a Folder and a Text of a str: the same objects inside; of the first two the container gets a mount alone."""
    given = files_in(pretender)
    assert run(DockerEnvironment(), READ, values=given)[0].stdout.strip() == READ_SAID
    (started,) = [json.loads(line) for line in (pretender / "log").read_text().splitlines() if '"run"' in line]
    mounts = [value for flag, value in pairs(started) if flag == "--mount"]
    assert [re.sub("src=[^,]*/", "src=", mount) for mount in mounts] == [
        f"type=bind,src={name},dst=/inputs/{name},readonly" for name in ("log", "docs")
    ]
    assert shared_folders() == set()


@pytest.mark.parametrize(
    "name", ["com,ma", "co:lon", "two\nlines", 'quo"te', os.fsdecode(b"bad\xff"), "readonly=false,x"]
)
def test_a_file_of_any_name_can_be_mounted(pretender, name):
    """No option of an engine is made of a caller's path."""
    given = files_in(pretender, name)
    (execution,) = run(DockerEnvironment(), "print(ascii(log.name), log.text()[:5])", values={"log": given["log"]})
    assert execution.stdout.strip() == f"{ascii(name)} first"
    (started,) = [json.loads(line) for line in (pretender / "log").read_text().splitlines() if '"run"' in line]
    assert [name in value for flag, value in pairs(started) if flag == "--mount"] == [False]


def test_what_took_the_files_place_is_not_read(pretender, monkeypatch):
    """Replaced between our last look and the engine's mount: the worker does not start; removed before: it is said."""
    given = files_in(pretender)
    find = docker.whereabouts

    def replaced(*args):
        found = find(*args)
        if args[0] == "log":
            os.replace(pretender / "secret", pretender / "app.log")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(docker, "whereabouts", replaced)
        with pytest.raises(EnvironmentFailure, match="'log': what is mounted is not what was opened"):
            run(DockerEnvironment(), READ, values=given)

    def removed(*args):
        os.unlink(pretender / "app.log")
        return find(*args)

    monkeypatch.setattr(docker, "whereabouts", removed)
    with pytest.raises(InputError, match="'log'.* moved or removed"):
        run(DockerEnvironment(), READ, values=given)
    assert shared_folders() == set()


def test_a_renamed_file_is_found_by_its_descriptor(pretender, monkeypatch):
    """It is mounted from where it is now."""
    given, find = files_in(pretender), docker.whereabouts

    def renamed(*args):
        os.rename(pretender / "app.log", pretender / "rotated.log")
        return find(*args)

    monkeypatch.setattr(docker, "whereabouts", renamed)
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("no /proc to ask")
    assert run(DockerEnvironment(), "print(log.text()[:5])", values={"log": given["log"]})[0].stdout == "first\n"


def test_a_folder_with_mounts_in_it_is_no_folder_for_a_container(pretender, monkeypatch):
    """Some engines leave these writable."""
    line = f"30 20 0:5 / {pretender}/docs/sub rw - tmpfs none rw\n".encode()
    read = Path.read_bytes
    given = files_in(pretender)
    monkeypatch.setattr(Path, "read_bytes", lambda p: line if p.name == "mountinfo" else read(p))
    with pytest.raises(InputError, match="'docs'.* holds the mount .*sub'"):
        run(DockerEnvironment(), READ, values=given)


@pytest.fixture(scope="session")
def container(tmp_path_factory):
    """A real container's environment, with an image made of this interpreter."""
    environment = DockerEnvironment()
    try:
        engine = environment.find_engine()
        name = container_image.import_image(engine)
        settings = container_image.settings_that_work(engine, tmp_path_factory.mktemp("containers"), name)
    except (EnvironmentFailure, RuntimeError, OSError) as error:
        pytest.skip(f"no container can be run here: {error}")
    with pytest.MonkeyPatch.context() as patch:
        for key, value in settings.items():
            patch.setenv(key, value)
        yield DockerEnvironment(image=name, engine=engine, memory="512m", pids=64)


REAL = (
    "every kind of value goes in whole",
    "big values cross",
    "fifty calls run at once",
    "a cell is stopped and its state kept",
    "a cell that eats the interrupt is killed",
    "a lost worker is told and replaced",
)


@pytest.mark.parametrize("name", REAL)
def test_a_real_container_does_what_is_asked_of_all(container, name):
    """The part of the suite where the container itself matters."""
    (check,) = [check for check in CHECKS if check.name == name]
    asyncio.run(check.run(Bench(container)))


def test_a_real_container_holds(container):
    """No network, no writing, no rights, bounded; nothing of this machine is in it."""
    marker = Path(tempfile.gettempdir(), "dszig-canary")
    marker.write_text("canary")
    code = textwrap.dedent(
        f"""
        import os, socket, json
        found = {{}}
        def attempt(name, function):
            try:
                found[name] = str(function())
            except BaseException as error:
                found[name] = type(error).__name__
        attempt("network", lambda: socket.create_connection(("1.1.1.1", 80), 2))
        attempt("interfaces", lambda: [name for _, name in socket.if_nameindex()])
        attempt("write", lambda: open("/etc/x", "w"))
        attempt("program", lambda: open("/run/dszig/worker/x", "w"))
        attempt("canary", lambda: open({str(marker)!r}).read())
        attempt("user", os.getuid)
        attempt("memory", lambda: bytearray(1 << 30))
        attempt("shared", lambda: os.listdir("/run/dszig"))
        attempt("root", lambda: os.setuid(0))
        status = dict(line.split(":", 1) for line in open("/proc/self/status"))
        found["capabilities"] = status["CapBnd"].strip() + status["CapEff"].strip()
        found["privileges"] = status["NoNewPrivs"].strip()
        found["processes"] = len([n for n in os.listdir("/proc") if n.isdigit()])
        def forks():
            import threading
            done = threading.Event()
            threads = []
            try:
                for _ in range(500):
                    threads.append(threading.Thread(target=done.wait)); threads[-1].start()
            except RuntimeError:
                pass
            done.set()
            return sum(t.is_alive() or t.ident is not None for t in threads) < 64
        attempt("threads", forks)
        print(json.dumps(found))
        """
    )
    try:
        (execution,) = run(container, code, values={"context": "x" * 100_000})
    finally:
        marker.unlink()
    assert execution.error == ""
    found = json.loads(execution.stdout)
    assert found.pop("network") in {"OSError", "PermissionError"}
    assert found == {
        "interfaces": "['lo']",
        "write": "OSError",
        "program": "FileNotFoundError",
        "canary": "FileNotFoundError",
        "user": "65534",
        "memory": "MemoryError",
        "shared": "[]",
        "root": "PermissionError",
        "capabilities": "0" * 32,
        "privileges": "1",
        "processes": 1,
        "threads": "True",
    }


def test_a_real_container_runs_a_typed_task(container):
    """The whole way, with classes of the cell's own."""
    cell = (
        "from pydantic import BaseModel\nclass A(BaseModel):\n    n: int\nx = A(n=len(t)).n\nprint(x)\nSUBMIT(answer=x)"
    )
    prediction = RLM("t -> answer: int", lm=ScriptedLM([f"```python\n{cell}\n```"]), environment=container)(
        t="y" * 70_000
    )
    assert prediction.answer == 70_000
    assert prediction.trajectory.isolation == "container"
    assert prediction.trajectory.environment == "docker"


def test_a_real_container_ends_with_its_host(container):
    """Where the command that holds it is killed, a cell that runs for ever ends as well."""

    async def go():
        async with a_session(container) as session:
            task = asyncio.ensure_future(session.execute("while True: pass"))
            await asyncio.sleep(0.5)
            held = session._containers[-1]
            os.kill(held.process.pid, signal.SIGKILL)
            execution = await task
            for _ in range(600):
                if not await asyncio.to_thread(still_runs, held):
                    return execution.lost
                await asyncio.sleep(0.1)
            return "the container runs on"

    def still_runs(held):
        asked = [held.engine, "ps", "--quiet", "--filter", f"name={held.name}"]
        return bool(subprocess.run(asked, capture_output=True, text=True).stdout.strip())

    assert "was lost" in asyncio.run(go())


def test_a_real_container_reads_files_where_they_are(container, tmp_path):
    """The same objects over real mounts, which nothing in there can write to, and nothing beside them is to be seen."""
    tmp_path.chmod(0o755)
    given = files_in(tmp_path, "com,ma:\ntwo")
    write = """
import os
for attempt in (lambda: open("/inputs/log", "w"), lambda: open("/inputs/docs/new", "w"), lambda: os.unlink("/inputs/docs/a.txt"),
                lambda: open("/inputs/docs/link").read(), lambda: os.chmod("/inputs/log", 0o777)):
    try: print("BREACH", attempt())
    except OSError as error: print(type(error).__name__)
print(sorted(os.listdir("/inputs")))
"""
    read, wrote = run(container, READ, write, values=given)
    name = "com,ma:\ntwo"
    assert read.stdout.strip() == READ_SAID.replace("app.log", name)
    assert wrote.stdout.splitlines() == [
        "OSError",
        "OSError",
        "OSError",
        "FileNotFoundError",
        "OSError",
        "['docs', 'log']",
    ]
    assert (tmp_path / name).read_text() == "first\nsecond"


def test_a_real_container_says_which_file_it_may_not_read(container, tmp_path):
    """What only the caller may read, nobody cannot."""
    (tmp_path / "x").write_text("x")
    (tmp_path / "x").chmod(0o600)
    with pytest.raises(EnvironmentFailure, match="input 'log': Permission denied; who reads in there is nobody"):
        run(container, "1", values={"log": File(tmp_path / "x")})
