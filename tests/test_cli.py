"""The command line, with small programs as models."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

import pytest

from dszig_py.cli import main
from dszig_py.trajectory import Trajectory

SIGNATURE = "context, question -> answer"
ECHO = "SUBMIT(answer=question + '|' + context)"
Model = Callable[..., str]

PROGRAM = """\
import json, sys
prompt = sys.stdin.read()
replies = json.loads({replies!r})
done = prompt.count("[assistant]")
print({extraction!r} if "What was done:" in prompt else replies[min(done, len(replies) - 1)])
"""


@pytest.fixture(autouse=True)
def _own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory, a state folder and an environment that belong to the test; what .env adds is undone."""
    for name in ("DSZIG_MODEL", "DSZIG_SUB_MODEL", "DSZIG_MAIN_CMD", "DSZIG_RLM_CMD", "DSZIG_RUNS_DIR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """Writes a program that answers with these cells, one a decision; the command to start it."""

    def write(*cells: str, extraction: str = "{}", said: str = "") -> str:
        replies = [f"{said}\n```python\n{cell}\n```" for cell in cells]
        program = tmp_path / f"model{len(list(tmp_path.glob('model*.py')))}.py"
        program.write_text(PROGRAM.format(replies=json.dumps(replies), extraction=extraction), encoding="utf-8")
        return shlex.join([sys.executable, "-S", "-E", str(program)])

    return write


def dszig(args: Sequence[str], env: dict[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    """The real command in a process of its own."""
    return subprocess.run([sys.executable, "-m", "dszig_py", *args], capture_output=True, timeout=60, env=env)


def stdin_from(tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch) -> TextIO:
    path = tmp_path / "stdin"
    path.write_bytes(data)
    file: TextIO = path.open(encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", file)
    return file


def saved_runs(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "state" / "dszig" / "runs").glob("*.jsonl"))


# Inputs


def test_a_signature_alone_is_run_and_a_single_output_is_its_value(
    model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "book.txt").write_bytes("\ufeffGrüße".encode())
    args = [SIGNATURE, "--context", "@book.txt", "--question", "@@me", "--main-cmd", model(ECHO)]
    assert main(args) == 0
    told = capsys.readouterr()
    assert told.out == "@me|Grüße\n"
    assert "iteration 1" in told.err and "submitted after 1 iteration" in told.err


def test_run_and_options_before_the_signature(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["-q", "--main-cmd", model(ECHO), "--question=a -> b", "--context", "-x", SIGNATURE]
    assert main(args) == 0
    assert main(["run", *args]) == 0
    told = capsys.readouterr()
    assert told.out == "a -> b|-x\n" * 2
    assert told.err == ""


def test_stdin_by_dash_and_for_the_one_field_not_given(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = model(ECHO)
    with stdin_from(tmp_path, b"piped", monkeypatch):
        assert main([SIGNATURE, "-q", "--question", "q", "--context", "-", "--main-cmd", command]) == 0
    with stdin_from(tmp_path, b"filled", monkeypatch):
        assert main([SIGNATURE, "-q", "--question", "q", "--main-cmd", command]) == 0
    assert capsys.readouterr().out == "q|piped\nq|filled\n"


@pytest.mark.parametrize(
    ("given", "data", "message"),
    [
        (["--question", "-", "--context", "-"], b"x", "already read by --context"),
        ([], b"x", "missing input: --context (str), --question (str)"),
        (["--question", "q"], b"", "missing input: --context (str)"),
    ],
)
def test_stdin_that_does_not_settle_the_inputs(
    given: list[str],
    data: bytes,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with stdin_from(tmp_path, data, monkeypatch):
        assert main([SIGNATURE, *given, "--main-cmd", "false"]) == 2
    assert message in capsys.readouterr().err


def test_typed_inputs_are_json_where_that_fits_and_text_otherwise(
    model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "raw").write_bytes(b"\xff\x00")
    signature = (
        "n: int, items: list[str], day: date, raw: bytes, maybe: str | None, kind: Literal['1', '2'] -> told: list[str]"
    )
    cell = "SUBMIT(told=[repr(v) for v in (n, items, day, raw, maybe, kind)])"
    args = ["--n", "3", "--items", '["a"]', "--day", "2026-01-02", "--raw", "@raw", "--maybe", "[1]", "--kind", "2"]
    assert main([signature, "-q", *args, "--main-cmd", model(cell)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == ["3", "['a']", "datetime.date(2026, 1, 2)", r"b'\xff\x00'", "'[1]'", "'2'"]


def test_bytes_that_are_no_utf8_are_replaced_and_counted(
    model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "latin").write_bytes(b"caf\xe9 \xff\xfe")
    assert main(["context -> answer", "-q", "--context", "@latin", "--main-cmd", model("SUBMIT(context)")]) == 0
    told = capsys.readouterr()
    assert told.out == "caf\ufffd \ufffd\ufffd\n"
    assert "3 bytes were replaced" in told.err


def test_inputs_as_json_and_options_win(model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "inputs.json").write_text('{"context": "file"}', encoding="utf-8")
    args = [SIGNATURE, "-q", "--inputs-file", "inputs.json", "--main-cmd", model(ECHO)]
    assert main([*args, "--inputs", '{"question": "json"}']) == 0
    assert main([*args, "--inputs", '{"question": "json"}', "--question", "option"]) == 0
    assert capsys.readouterr().out == "json|file\noption|file\n"


def test_a_field_named_like_an_option_gets_a_name_of_its_own(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["model, my_text -> answer", "-q", "--input-model", "a", "--my-text", "b", "--main-cmd"]
    assert main([*args, model("SUBMIT(model + my_text)")]) == 0
    assert capsys.readouterr().out == "ab\n"


# Wrong usage


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["shwo", "x"], "Did you mean 'show'?"),
        (["what is this"], "a signature has an arrow"),
        (["-m", "offline"], "there is no signature"),
        (["run", "context, question"], "no '->'"),
        (["context: strr -> answer"], "strr"),
        ([SIGNATURE, "--contxt", "x"], "--context"),
        ([SIGNATURE, "--context", "@missing.txt", "--question", "q", "-m", "offline"], "missing.txt: No such file"),
        ([SIGNATURE, "--context", "@", "--question", "q", "-m", "offline"], "takes a file's name"),
        (["n: int -> answer", "--n", "many", "-m", "offline"], "--n is declared int"),
        (["n: list[int] -> answer", "--n", '["x"]', "-m", "offline"], "valid integer"),
        ([SIGNATURE, "--inputs", "[1]", "-m", "offline"], "takes a JSON object"),
        ([SIGNATURE, "--inputs", '{"contxt": 1}', "-m", "offline"], "did you mean 'context'?"),
        ([SIGNATURE, "--context", "x", "--question", "q"], "no model is configured"),
        ([SIGNATURE, "--context", "x", "--question", "q", "-m", "a/b", "--main-cmd", "x"], "--model or --main-cmd"),
        ([SIGNATURE, "--context", "x", "--question", "q", "--main-cmd", "x", "--environment", "moon"], "moon"),
        (
            [SIGNATURE, "--context", "x", "--question", "q", "--main-cmd", "x", "--show", "nothing"],
            "no such input field",
        ),
        ([SIGNATURE, "--max-cost", "nan", "-m", "offline"], "--max-cost"),
        ([SIGNATURE, "--max-iters", "0", "-m", "offline"], "--max-iters"),
        (["show", "missing.jsonl"], "does not exist"),
    ],
)
def test_wrong_usage_is_a_short_message_and_exit_code_2(
    args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(args) == 2
    told = capsys.readouterr()
    assert message in told.err
    assert "Traceback" not in told.err and told.out == ""


def test_the_same_field_in_both_json_objects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "inputs.json").write_text('{"context": "x"}', encoding="utf-8")
    args = [SIGNATURE, "-m", "offline", "--inputs", '{"context": "y"}', "--inputs-file", "inputs.json"]
    assert main(args) == 2
    assert "context: in --inputs and in --inputs-file" in capsys.readouterr().err


# What a run comes to


def test_several_outputs_and_ansi_taken_out_but_not_markup(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    cell = r"SUBMIT(a='\x1b[31m[bold]x[/bold]\x1b[0m\x07', b={'k': [1, float('nan')]})"
    assert main(["-> a, b: dict", "--main-cmd", model(cell, said="[red]I \x1b[2Jthink[/red]")]) == 0
    told = capsys.readouterr()
    assert told.out == 'a: [bold]x[/bold]\nb: {"k": [1, "nan"]}\n'
    assert "\x1b" not in told.err and "[red]I think[/red]" in told.err


def test_json_output(model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["-> n: int", "--json", "-q", "--trace", "out/run.jsonl", "--main-cmd", model("print(1)", "SUBMIT(n=7)")]
    assert main(args) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["outputs"] == {"n": 7}
    assert told["termination"] == {"kind": "submitted", "cause": "model", "detail": ""}
    assert told["usage"]["calls"] == told["iterations"] == 2
    assert told["run"] == "out/run.jsonl" and "error" not in told
    assert Trajectory.load("out/run.jsonl").outputs == {"n": 7}
    assert len(saved_runs(tmp_path)) == 1


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_an_int_too_long_to_be_written_is_hexadecimal(
    model: Model, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    """Python and JSON readers stop at 4,300 digits; the run is paid for, so its output is told all the same."""
    args = ["run", "text -> n: int", "--text", "t", *flags, "--main-cmd", model("SUBMIT(-(16 ** 5_000))")]
    assert main(args) == 0
    told = json.loads(capsys.readouterr().out)
    assert int(told["outputs"]["n"] if flags else told, 16) == -(16**5_000)


def test_a_limit_is_exit_code_3_with_what_there_is(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    command = model("print(1)", extraction='{"answer": "partial"}')
    assert main(["-> answer", "-q", "--max-iters", "1", "--main-cmd", command]) == 3
    told = capsys.readouterr()
    assert told.out == "partial\n"
    assert told.err.startswith("ended by max_iters")


def test_a_failing_model_is_exit_code_1(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["-> answer", "--json", "--main-cmd", "echo broken >&2; exit 4"]) == 1
    told = capsys.readouterr()
    record = json.loads(told.out)
    assert "broken" in record["error"] and record["termination"]["cause"] == "provider"
    assert "Error: " in told.err and "Traceback" not in told.err
    assert len(saved_runs(tmp_path)) == 1


def test_runs_dir_and_a_failure_to_save_only_warns(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = model("SUBMIT('x')")
    monkeypatch.setenv("DSZIG_RUNS_DIR", str(tmp_path / "runs"))
    assert main(["-> answer", "--main-cmd", command]) == 0
    (run,) = (tmp_path / "runs").glob("*.jsonl")
    assert f"dszig show {run}" in capsys.readouterr().err
    (tmp_path / "file").touch()
    monkeypatch.setenv("DSZIG_RUNS_DIR", str(tmp_path / "file" / "below"))
    assert main(["-> answer", "--main-cmd", command]) == 0
    told = capsys.readouterr()
    assert told.out == "x\n" and "warning: the run was not saved" in told.err


def test_show_reads_what_was_saved_and_refuses_other_files(
    model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-> answer", "-q", "--trace", "run.jsonl", "--main-cmd", model("print('seen')", "SUBMIT('end')")]) == 0
    assert main(["show", "run.jsonl"]) == 0
    told = capsys.readouterr().out
    assert "print('seen')" in told and "answer = end" in told and "submitted (model)" in told
    run = tmp_path / "run.jsonl"
    run.write_bytes(run.read_bytes()[:-20])
    assert main(["show", "run.jsonl"]) == 0
    assert "the file ends before the run does" in capsys.readouterr().out.replace("\n", " ")
    for other in (b"hello", b"", b'{"row": "run", "schema": "dszig.trajectory/1"}', b'{"row": "iteration"}'):
        run.write_bytes(other)
        assert main(["show", "run.jsonl"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_env_file_is_read_by_the_command_line_only_and_never_wins(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".env").write_text(f'DSZIG_MAIN_CMD="{model("SUBMIT(1)")}"\n', encoding="utf-8")
    code = "import os; from dszig_py import RLM; RLM('-> a'); print(os.environ.get('DSZIG_MAIN_CMD'))"
    library = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)
    assert library.stdout == b"None\n"
    assert main(["-> n: int", "-q"]) == 0
    monkeypatch.setenv("DSZIG_MAIN_CMD", model("SUBMIT(2)"))
    assert main(["-> n: int", "-q"]) == 0
    assert capsys.readouterr().out == "1\n2\n"


# Other verbs


def test_doctor_names_keys_and_never_shows_their_values(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-hidden")
    monkeypatch.setenv("DSZIG_MAIN_CMD", "curl -H 'key: hidden'")
    monkeypatch.setenv("DSZIG_MODEL", "a/model")
    code = main(["doctor"])
    told = capsys.readouterr().out
    assert main(["doctor", "--json"]) == code
    record = json.loads(capsys.readouterr().out)
    assert "OPENAI_API_KEY" in told and "OPENAI_API_KEY" in record["keys"]
    assert "hidden" not in told + json.dumps(record)
    assert record["settings"]["DSZIG_MODEL"] == "a/model" and record["versions"]["pydantic"]
    assert (code == 0) == ("level" in record["isolation"])


def test_doctor_where_no_code_can_be_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from dszig_py import environments
    from dszig_py.errors import EnvironmentFailure

    def refuse(_: object) -> None:
        raise EnvironmentFailure("no boundary here")

    monkeypatch.setattr(environments, "resolve", refuse)
    assert main(["doctor"]) == 1
    assert "no boundary here" in capsys.readouterr().out


def test_demo_answers_from_pythons_reference(tmp_path: Path) -> None:
    """Without a key or a network."""
    pytest.importorskip("dszig_py.lm.offline")
    done = dszig(["demo"])
    assert done.returncode == 0, done.stderr.decode()
    assert b"context manager" in done.stdout
    assert b"no model" in done.stderr and str(saved_runs(tmp_path)[0]).encode() in done.stderr


def test_help_explains_values_and_lists_the_fields(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert main(["run", "--help"]) == 0
    assert main(["--version"]) == 0
    assert main(["run", "book, n: int -> a", "--help"]) == 0
    told = capsys.readouterr().out
    assert "doctor" in told and "@FILE" in told and re.search(r"^dszig \d", told, re.M)
    assert re.search(r"--book TEXT.*Input field: str", told)


# The process


def test_version_loads_neither_litellm_nor_dspy_nor_rich() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "dszig_py", "--version"], capture_output=True, text=True, timeout=60
    )
    loaded = set(re.findall(r"\|\s*([\w.]+)$", done.stderr, re.M))
    assert "click" in loaded and not loaded & {"litellm", "dspy", "rich.console", "asyncio"}


def test_a_reader_that_leaves_is_no_traceback(model: Model) -> None:
    args = ["-> answer", "-q", "--main-cmd", model("SUBMIT('x' * 1_000_000)")]
    command = f"{shlex.join([sys.executable, '-m', 'dszig_py', *args])} | head -c 3"
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, timeout=60)
    assert (done.stdout, done.stderr) == (b"xxx", b"")


def test_stdout_that_is_not_utf8_gets_what_it_can_show(model: Model) -> None:
    args = ["-> answer", "-q", "--main-cmd", model("SUBMIT('Gr\\u00fc\\u00dfe')")]
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    assert dszig(args, env=env).stdout == b"Gr??e\n"
    assert json.loads(dszig([*args, "--json"], env=env).stdout)["outputs"] == {"answer": "Grüße"}


def test_interrupted_is_130_with_the_trajectory_saved(tmp_path: Path, model: Model) -> None:
    command = model("print('first')", "print('second')")
    slow = f"if [ -e once ]; then sleep 600; else touch once; {command}; fi"
    args = [sys.executable, "-m", "dszig_py", "-> answer", "--trace", "run.jsonl", "--main-cmd", slow]
    with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if b"first" in line:
                break
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in errors
    run = Trajectory.load(tmp_path / "run.jsonl")
    assert run.termination is not None and run.termination.kind == "cancelled"
    assert len(run.iterations) == 1


def test_on_a_terminal_there_is_a_live_view_and_stdout_holds_the_outputs_alone(model: Model) -> None:
    ours, theirs = pty.openpty()
    args = [sys.executable, "-m", "dszig_py", "-> answer", "--main-cmd", model("SUBMIT('end')", said="look here")]
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "60", "LINES": "20"}
    done = subprocess.run(args, stdout=subprocess.PIPE, stderr=theirs, env=env, timeout=60)
    os.close(theirs)
    screen = os.read(ours, 1_000_000).decode()
    os.close(ours)
    assert done.stdout == b"end\n"
    assert "\x1b[2K" in screen  # lines are drawn over
    assert "iteration 1" in screen and "look here" in screen and "saved" in screen


# A place to write to that is not there


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize("args", [["doctor"], ["--help"], ["complete", "hi", "-m", "offline"]], ids=" ".join)
def test_a_full_disk_behind_stdout_is_told_in_a_line(args: list[str]) -> None:
    """Whichever verb writes: exit code 1 and no traceback, not even from Python's last flush."""
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-m", "dszig_py", *args], stdout=full, stderr=subprocess.PIPE, timeout=60, check=False
        )
    assert done.returncode == 1
    assert done.stderr.decode() == "Error: standard output: No space left on device\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_outputs_that_cannot_be_printed_are_kept_where_stderr_says(model: Model, tmp_path: Path) -> None:
    """The run is paid for: its trace and the page are written, and told of."""
    args = [SIGNATURE, "--context", "c", "--question", "q", "--main-cmd", model(ECHO), "--html", "run.html"]
    command = [sys.executable, "-u", "-m", "dszig_py", *args]
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=60, check=False)
    told = done.stderr.decode()
    assert done.returncode == 1
    assert "Traceback" not in told
    assert str(saved_runs(tmp_path)[0]) in told
    assert (tmp_path / "run.html").exists()


def test_a_closed_stderr_leaves_outputs_and_exit_code_as_they_are(model: Model) -> None:
    """As cron jobs and services start a command; progress is for nobody then."""
    args = [SIGNATURE, "--context", "c", "--question", "q", "--main-cmd", model(ECHO)]
    command = shlex.join([sys.executable, "-m", "dszig_py", *args])
    done = subprocess.run(["/bin/sh", "-c", f"{command} 2>&-"], stdout=subprocess.PIPE, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, b"q|c\n")


def test_a_working_directory_that_is_gone_is_no_traceback(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that reads and writes nothing there goes on."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert main([SIGNATURE, "-q", "--context", "c", "--question", "q", "--main-cmd", model(ECHO)]) == 0
    assert capsys.readouterr().out == "q|c\n"


@pytest.mark.parametrize(
    ("args", "told", "never"),
    [
        (["a -> b", "--inputs-file", "none", "-m", "offline"], "none: No such file", "@@"),
        (["a: Item -> b", "--a", "x", "-m", "offline"], "a command line names Python's own types", "Traceback"),
        (["resume", "none.jsonl"], "dszig run --trace PATH --resumable", "Traceback"),
    ],
    ids=["inputs file", "class", "resume"],
)
def test_advice_is_for_a_command_line(
    args: list[str], told: str, never: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it says to do can be done there."""
    assert main(args) == 2
    said = capsys.readouterr().err
    assert told in said
    assert never not in said
