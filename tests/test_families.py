"""zigrlm's commands and flags in ``dszig``: stub Codex and Claude programs, commands, and a scripted server as models."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_server import ScriptedServer
from waiting import reached, within

from dszig_py.cli import main
from dszig_py.errors import LMError
from dszig_py.lm import CommandLM, claude, codex
from dszig_py.lm.base import Request
from dszig_py.lm.metered import Meter
from dszig_py.trajectory import Trajectory
from dszig_py.usage import Exhausted

PREFIXES = ("DSZIG_", "ZIGRLM_", "CODEX_", "CLAUDE_", "OPENAI_", "ZAI_")

# A program that notes how it was started and answers a decision with a cell, anything else with a word.
STUB = """\
#!{python} -SE
import json, os, re, sys
prompt = sys.stdin.read()
with open({log!r}, "a") as log:
    log.write(json.dumps({{"argv": sys.argv[1:], "cwd": os.getcwd(), "files": os.listdir(), "prompt": prompt}}) + "\\n")
print("thinking ...", file=sys.stderr)
if "```repl block" in prompt:
    told = re.search(r"[:]\\n(```repl\\n[^`]+```)", prompt.replace("\\\\n", "\\n"))  # prompts are shown as literals
    print(told[1] if told and "Answer this briefly: Solve" not in prompt else "```repl\\nFINAL('done: ' + prompt[0:19])\\n```")
else:
    print("```python\\n" + ({cell!r}) + "\\n```" if "SUBMIT" in prompt else "plain: " + prompt[-40:])
"""


@pytest.fixture(autouse=True)
def _own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory, a state folder and an environment that belong to the test."""
    for name in [name for name in os.environ if name.upper().startswith(PREFIXES)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "CLAUDE.md").write_text("project notes", encoding="utf-8")
    monkeypatch.chdir(tmp_path / "work")


class Stub:
    """A program written for a test, and how it was started."""

    def __init__(self, folder: Path, name: str, cell: str = "SUBMIT(llm_query(context))") -> None:
        self.path, self._log = folder / name, folder / f"{name}.log"
        self.path.write_text(STUB.format(python=sys.executable, log=str(self._log), cell=cell), encoding="utf-8")
        self.path.chmod(0o755)

    @property
    def starts(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self._log.read_text("utf-8").splitlines()]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Stub]:
    """Stub codex and claude, named by CODEX_BIN and CLAUDE_BIN."""
    stubs = {name: Stub(tmp_path, name) for name in ("codex", "claude")}
    for name, stub in stubs.items():
        monkeypatch.setenv(f"{name.upper()}_BIN", str(stub.path))
    return stubs


def after(argv: object, flag: str) -> str:
    """The value that follows ``flag``."""
    assert isinstance(argv, list)
    return str(argv[argv.index(flag) + 1])


# Flat completions


@pytest.mark.parametrize("verb", [["complete", "--via", "claude"], ["claude-proxy"]])
def test_claude_answers_stdin_with_its_tools_off_in_an_empty_folder(verb, programs, capfd, tmp_path):
    """--tools "", no MCP servers, no project settings, no session; the prompt is stdin, no argument."""
    assert main([*verb, "--model", "sonnet", "--effort", "high", "x" * 300_000 + " last"]) == 0
    assert capfd.readouterr().out.startswith("plain: xxx") and (tmp_path / "work").exists()
    (start,) = programs["claude"].starts
    argv = start["argv"]
    assert after(argv, "--tools") == "" and after(argv, "--setting-sources") == "" and "--strict-mcp-config" in argv
    assert after(argv, "--model") == "sonnet" and after(argv, "--effort") == "high"
    assert argv[:3] == ["-p", "--output-format", "text"] and "--no-session-persistence" in argv
    assert start["files"] == [] and not Path(str(start["cwd"])).exists() and len(str(start["prompt"])) == 300_005


@pytest.mark.parametrize("verb", [["complete", "--via", "codex"], ["codex-proxy"]])
def test_codex_answers_stdin_read_only_with_its_tools_off(verb, programs, capfd):
    """exec reads the prompt from -, in its read-only sandbox, without config, rules, shell or web search."""
    assert main([*verb, "--model", "gpt-5.4", "a prompt"]) == 0
    assert capfd.readouterr().out == "plain: a prompt\n"
    (start,) = programs["codex"].starts
    argv = start["argv"]
    assert argv[0] == "exec" and argv[-1] == "-" and after(argv, "--sandbox") == "read-only"
    assert {"--ignore-user-config", "--ignore-rules", "--skip-git-repo-check", "--ephemeral"} <= set(argv)
    assert {"features.shell_tool=false", 'web_search="disabled"', 'model_reasoning_effort="low"'} <= set(argv)
    assert after(argv, "-m") == "gpt-5.4" and start["files"] == [] and start["prompt"] == "a prompt"


@pytest.mark.parametrize("program", ["codex", "claude"])
def test_allowed_tools_work_in_the_working_directory(program, programs, tmp_path):
    """--allow-tools leaves the program as it is, where the user is."""
    assert main(["complete", "--via", program, "--allow-tools", "p"]) == 0
    (start,) = programs[program].starts
    assert start["cwd"] == str(tmp_path / "work") and start["files"] == ["CLAUDE.md"]
    assert "--tools" not in start["argv"] and "features.shell_tool=false" not in start["argv"]


def test_a_completion_by_echo_is_its_prompt(capsys):
    """A way that ``--help`` names; there is no run whose environment it could ask for."""
    assert main(["complete", "--via", "echo", "hello"]) == 0
    assert capsys.readouterr().out == "hello\n"


def test_a_generic_command_completes_a_file_stdin_or_an_argument(tmp_path, monkeypatch, capfd):
    """--cmd and ZIGRLM_MAIN_CMD; JSON says what was spent."""
    (tmp_path / "prompt.txt").write_text("from a file", encoding="utf-8")
    args = ["complete", "--cmd", "tr a-z A-Z"]
    assert main([*args, "--file", str(tmp_path / "prompt.txt")]) == 0
    monkeypatch.setenv("ZIGRLM_MAIN_CMD", "rev")
    with (tmp_path / "prompt.txt").open(encoding="utf-8") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert main(["complete"]) == 0
    assert main([*args, "--json", "json"]) == 0
    first, second, third = capfd.readouterr().out.splitlines()
    assert (first, second) == ("FROM A FILE", "elif a morf")
    assert json.loads(third)["text"] == "JSON" and json.loads(third)["usage"]["calls"] == 1


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ([], 2, "there is no prompt"),
        (["x", "--file", "y"], 2, "give the prompt once"),
        (["--file", "missing.txt"], 2, "missing.txt: No such file"),
        (["toolong", "--max-input-bytes", "6"], 2, "the prompt has 7"),
        (["x", "--via", "moon"], 2, "moon"),
        (["x", "--via", "codex", "--codex-bin", "/no/codex"], 1, "could not be started"),
        (["x", "--cmd", "echo no >&2; exit 3"], 1, "exit code 3: no"),
        (["x", "--cmd", "sleep 600", "--timeout-ms", "100"], 1, "no answer within 0.1 seconds"),
    ],
)
def test_what_cannot_be_completed_is_a_message_and_an_exit_code(args, code, message, monkeypatch, capfd):
    """2 for what the caller mends, 1 for what failed; nothing on stdout."""
    with open(os.devnull, encoding="utf-8") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setenv("DSZIG_MAIN_CMD", "cat" if "--cmd" not in args else "")
        assert main(["complete", *args]) == code
    told = capfd.readouterr()
    assert message in told.err and told.out == "" and "Traceback" not in told.err


def test_a_timeout_kills_what_the_program_started(tmp_path):
    """The program's whole session goes, not the program alone."""
    import anyio

    note = tmp_path / "pid"

    def attempt(seconds):
        lm = CommandLM(f"sleep 600 & echo $! > {shlex.quote(str(note))}; wait", timeout=seconds)
        with pytest.raises(LMError, match="no answer within"):
            anyio.run(lm.complete, Request.of("x"))
        return note.exists() and note.read_text("utf-8").endswith("\n")

    reached(attempt, 0.5)
    within(lambda: not _alive(int(note.read_text("utf-8"))), told=lambda: "the grandchild lives on")


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_providers_of_zigrlm_go_through_litellm_with_its_variables(monkeypatch, capfd):
    """openai and zai: base URL, key and the two models are read from zigrlm's variables, in small letters too."""
    with ScriptedServer(lambda body: f"{body['model']} says OK") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
        assert main(["openai-proxy", "--model", "gpt-5.4", "Return exactly OK."]) == 0
        monkeypatch.setenv("ZAI_CODING_BASE_URL", server.url)
        monkeypatch.setenv("zai_coding_api_key", "zai-test")
        monkeypatch.setenv("ZAI_MAIN_MODEL", "glm-9")
        assert main(["complete", "--via", "zai", "hello"]) == 0
        heads = [received.head for received in server.requests]
    assert capfd.readouterr().out == "gpt-5.4 says OK\nglm-9 says OK\n"
    assert "Bearer sk-test" in heads[0] and "Bearer zai-test" in heads[1]


# Recursive runs


def test_codex_and_claude_are_root_and_sub_model_of_a_run(programs, monkeypatch, capfd):
    """--via and --sub-via; each role has its own model and effort by zigrlm's variables."""
    monkeypatch.setenv("CODEX_MAIN_MODEL", "big")
    monkeypatch.setenv("CLAUDE_RLM_MODEL", "small")
    monkeypatch.setenv("CLAUDE_EFFORT", "medium")
    args = ["run", "context -> answer", "--context", "the text", "--via", "codex", "--sub-via", "claude"]
    assert main([*args, "-q", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["outputs"] == {"answer": "plain: the text"}
    assert sorted(told["usage"]["by_model"]) == ["claude/small", "codex/big"]
    (root,), (sub,) = programs["codex"].starts, programs["claude"].starts
    assert after(root["argv"], "-m") == "big" and after(sub["argv"], "--model") == "small"
    assert after(sub["argv"], "--effort") == "medium" and sub["prompt"] == "the text"


def test_cli_runs_the_commands_of_the_environment(tmp_path, monkeypatch, capfd):
    """ZIGRLM_MAIN_CMD decides, ZIGRLM_RLM_CMD answers sub-calls; without the second, the first does both."""
    root = Stub(tmp_path, "root")
    monkeypatch.setenv("ZIGRLM_MAIN_CMD", shlex.quote(str(root.path)))
    monkeypatch.setenv("ZIGRLM_RLM_CMD", "rev")
    assert main(["cli", "-q", "--environment", "python", "abc"]) == 0
    assert main(["run", "context -> answer", "-q", "--context", "abc"]) == 0
    monkeypatch.delenv("ZIGRLM_RLM_CMD")
    assert main(["cli", "-q", "--environment", "python", "abc"]) == 0
    monkeypatch.setenv("DSZIG_MAIN_CMD", "false")
    assert main(["run", "context -> answer", "-q", "--context", "abc"]) == 1
    assert capfd.readouterr().out.startswith("cba\ncba\nplain: abc\n")


def test_dszig_takes_signature_and_inputs_as_zigrlm_does(tmp_path, monkeypatch, capfd):
    """--signature, --inputs, --stdin as JSON, --json, --max-iterations, --max-output-chars."""
    root = Stub(tmp_path, "root", "SUBMIT(answer=question.upper())")
    monkeypatch.setenv("ZIGRLM_MAIN_CMD", shlex.quote(str(root.path)))
    args = ["dszig", "--signature", "question: str -> answer: str", "--json", "-q", "--max-iterations", "3"]
    assert main([*args, "--inputs", '{"question": "alpha"}', "--max-output-chars", "500"]) == 0
    (tmp_path / "inputs.json").write_text('{"question": "beta"}', encoding="utf-8")
    with (tmp_path / "inputs.json").open(encoding="utf-8") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert main([*args, "--stdin"]) == 0
    told = [json.loads(line)["outputs"]["answer"] for line in capfd.readouterr().out.splitlines()]
    assert told == ["ALPHA", "BETA"]


# zigrlm's quick start, its name changed, its commands as they stand there; `dszig demo` is in test_cli.py

QUICK_START = {
    "echo": 'dszig echo "hello"',
    "trace": 'dszig echo --trace "$TMP/zigrlm-echo-trace.jsonl" "hello"',
    "flat": "printf 'Return exactly OK.' | dszig openai-proxy --model gpt-5.4",
    "child": """dszig cli-codex --timeout-ms 600000 'Solve via a child:
```repl
rlm_query child = "Answer this briefly: " + context
FINAL_VAR(child)
```'""",
    "parallel": """dszig cli-codex --timeout-ms 600000 'Fan out:
```repl
rlm_query_batched answers = "Task A" | "Task B" | "Task C"
FINAL_VAR(answers)
```'""",
}


def shell(command: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """``command`` as a user types it, with dszig on the path."""
    program = folder / "bin" / "dszig"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m dszig_py "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    path = {"PATH": f"{program.parent}:{os.environ['PATH']}", "TMP": str(folder)}
    return subprocess.run(
        ["/bin/sh", "-c", command], capture_output=True, text=True, timeout=60, env={**os.environ, **path, **env}
    )


@pytest.mark.parametrize("step", ["echo", "trace"])
def test_quick_start_without_a_network(step, tmp_path):
    """echo says its argument; --trace leaves a run that loads."""
    done = shell(QUICK_START[step], tmp_path)
    assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr
    if step == "trace":
        assert Trajectory.load(tmp_path / "zigrlm-echo-trace.jsonl").outputs == {"answer": "hello"}


def test_quick_start_flat_completion(tmp_path):
    """A plain completion through the provider, stdin to stdout."""
    with ScriptedServer(
        lambda body: "OK" if body["messages"][-1]["content"] == "Return exactly OK." else "?"
    ) as server:
        done = shell(QUICK_START["flat"], tmp_path, OPENAI_API_KEY="sk-test", OPENAI_BASE_URL=server.url)
    assert (done.returncode, done.stdout) == (0, "OK\n"), done.stderr


@pytest.mark.parametrize(
    ("step", "answer", "starts"),
    [
        ("child", "done: Answer this briefly\n", 2),
        ("parallel", "[0]\ndone: Task A\n\n[1]\ndone: Task B\n\n[2]\ndone: Task C\n\n", 4),  # as zigrlm joins answers
    ],
)
def test_quick_start_recursive_codex(step, answer, starts, tmp_path):
    """A child run, and three at once inside one process, in zigrlm's language, all over the codex program."""
    stub = Stub(tmp_path, "codex")
    done = shell(QUICK_START[step], tmp_path, CODEX_BIN=str(stub.path))
    assert (done.returncode, done.stdout) == (0, answer), done.stderr
    assert len(stub.starts) == starts


# Flags


def run(*flags: str, signature: str = "context -> answer", cell: str = "SUBMIT('x')") -> int:
    """A run whose model answers every decision with ``cell``."""
    text = f"printf '%s\\n' '```python' {shlex.quote(cell)} '```'"
    return main([signature, "-q", "--main-cmd", text, "--rlm-cmd", "cat", *flags])


def test_file_and_stdin_fill_the_first_input_not_given(tmp_path, monkeypatch, capfd):
    """As zigrlm's prompt; another field may be given beside it."""
    (tmp_path / "big.txt").write_text("text", encoding="utf-8")
    fields = {"signature": "context, question -> answer", "cell": "SUBMIT(context + question)"}
    assert run("--file", str(tmp_path / "big.txt"), "--question", "?", **fields) == 0
    with (tmp_path / "big.txt").open(encoding="utf-8") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert run("--stdin", "--context", "c", **fields) == 0
    assert capfd.readouterr().out == "text?\nctext\n"


@pytest.mark.parametrize(
    ("flags", "kind", "message"),
    [
        (["--max-calls", "2"], "max_llm_calls", "all 2 model calls are used"),
        (["--max-output-bytes", "30"], "max_tokens", "output byte limit"),
        (["--max-input-bytes", "2000"], "max_tokens", "input byte limit"),
        (["--max-iterations", "2"], "max_iters", "2 iterations"),
    ],
)
def test_a_limit_of_zigrlm_ends_a_run_with_exit_code_3(flags, kind, message, capfd):
    """And says which one it was."""
    assert run("--context", "c", "--json", *flags, cell="print(len(context))") == 3
    told = json.loads(capfd.readouterr().out)["termination"]
    assert told["kind"] == kind and message in told["detail"]


def test_errors_in_a_row_end_a_run(capfd):
    """--max-consecutive-errors counts iterations that failed."""
    assert run("--context", "c", "--json", "--max-consecutive-errors", "2", cell="1/0") == 1
    told = json.loads(capfd.readouterr().out)
    assert told["termination"]["kind"] == "error" and told["iterations"] == 2


def test_timeouts_in_milliseconds_hold_for_calls_cells_and_the_run(capfd):
    """--timeout-ms for one cell or call, --max-runtime-ms for the whole."""
    flags = ["--context", "c", "--json", "--max-iterations", "1"]
    assert run(*flags, "--timeout-ms", "2000", cell="while True: pass") == 3
    assert run(*flags, "--timeout-ms", "2000", cell="print(llm_query('sleep'))") == 3
    assert main(["-> a", "-q", "--json", "--main-cmd", "sleep 600", "--timeout-ms", "100"]) == 1
    assert main(["-> a", "-q", "--json", "--main-cmd", "sleep 600", "--max-runtime-ms", "300"]) == 3
    told = [json.loads(line)["termination"] for line in capfd.readouterr().out.splitlines()]
    assert [one["kind"] for one in told] == ["max_iters", "max_iters", "error", "max_seconds"]


def test_persistent_keeps_variables_and_inputs_for_the_next_command(tmp_path, capfd):
    """Two processes could not tell the difference: the second finds what the first left."""
    assert run("--context", "abc", "--persistent", "book", cell="n = len(context)\nf = lambda: n\nSUBMIT(str(n))") == 0
    assert run("--persistent", "book", cell="SUBMIT(context * n)") == 0
    told = capfd.readouterr()
    assert told.out == "3\nabcabcabc\n" and "cannot keep f" in told.err
    assert (tmp_path / "state" / "dszig" / "runs" / "sessions" / "book.json").is_file()


def test_metadata_and_html_are_written_after_the_run(tmp_path, capfd):
    """rlm's visualizer reads the one, a browser the other."""
    assert run("--context", "c", "--metadata", "out/meta.jsonl", "--html", "out/run.html") == 0
    first, second = (json.loads(line) for line in Path("out/meta.jsonl").read_text("utf-8").splitlines())
    assert first["schema"] == "zigrlm.rlm_metadata.v1" and second["schema"] == "zigrlm.rlm_iteration.v1"
    assert "<html" in Path("out/run.html").read_text("utf-8")
    assert run("--context", "c", "--html", "/dev/null/x.html") == 0
    assert "warning: " in capfd.readouterr().err


def test_compaction_is_wired_to_the_strategy(capfd):
    """A history past the threshold is summarized by the model; the trace says so."""
    cell = "print('x' * 3000)"
    flags = ["--compaction", "--compaction-threshold-bytes", "2000", "--max-iterations", "4", "--trace", "run.jsonl"]
    assert run("--context", "c", *flags, cell=cell) == 3
    assert any(iteration.compaction for iteration in Trajectory.load("run.jsonl").iterations)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max-input-bytes", "2"], "context has 3 bytes"),
        (["--docker-setup-timeout-ms", "5"], "fetch the image first"),
        (["--docker-image", "x"], "go with --environment docker"),
        (["--python-bin", "/bin/sh"], "--environment docker --docker-image"),
        (["--docker-bin", "/bin/sh", "--environment", "docker-python"], "docker or podman"),
        (["--compaction-threshold-bytes", "5000"], "goes with --compaction"),
        (["--max-iters", "2", "--max-iterations", "3"], "say different things"),
        (["--file", "x", "--stdin"], "not both"),
        (["--file", "x"], "all are"),
        (["--persistent", "x y"], "--persistent"),
        (["--persistent", "--compaction"], "--persistent takes a NAME"),
        (["--persistent", "/dev/null/x.json"], "the session cannot be kept"),
        (["--via", "codex"], "--main-cmd, not both"),
        (["--sub-via", "codex"], "--rlm-cmd, not both"),
        (["--via", "echo"], "--main-cmd, not both"),
        (["--timeout-ms", "0"], "--timeout-ms"),
    ],
)
def test_what_has_no_counterpart_is_refused_with_what_to_use(flags, message, capfd):
    """Wrong usage, before any model call."""
    assert run("--context", "abc", *flags) == 2
    told = capfd.readouterr()
    assert message in told.err and told.out == ""


def test_python_bin_may_name_the_python_that_runs_us():
    """A script that says --python-bin of this very interpreter goes on working."""
    assert run("--context", "c", "--python-bin", sys.executable) == 0


def test_depth_counts_as_zigrlm_counts_it_under_its_own_commands(tmp_path, monkeypatch, capfd):
    """Its --max-depth has the root in it, ours has not: at 1 rlm_query is a plain call; 0 is no run at all."""
    root = Stub(tmp_path, "root", "SUBMIT(rlm_query('deeper'))")
    monkeypatch.setenv("ZIGRLM_MAIN_CMD", shlex.quote(str(root.path)))
    assert main(["cli", "-q", "--environment", "python", "--max-depth", "1", "x"]) == 0
    assert capfd.readouterr().out == "plain: deeper\n"
    assert main(["cli", "-q", "--max-depth", "0", "x"]) == 2
    assert "dszig complete" in capfd.readouterr().err


def test_a_way_without_a_model_refuses_one(capfd):
    """--via echo and --via cmd would not ask it."""
    assert main(["echo", "-m", "openai/gpt-5", "x"]) == 2
    assert "takes no model" in capfd.readouterr().err


# Parts


def test_a_meter_holds_under_threads_and_gives_back_what_failed():
    """Never over its calls, and a failed call is none."""
    from concurrent.futures import ThreadPoolExecutor

    meter = Meter(max_calls=50)

    def call(_: int) -> bool:
        try:
            meter.begin(3)
        except Exhausted:
            return False
        meter.end(3, 2)
        return True

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(call, range(200))) == 50
    assert (meter.calls, meter.input_bytes, meter.output_bytes) == (50, 150, 100)
    meter = Meter(max_calls=1)
    meter.begin(3)
    meter.end(3, None)
    assert (meter.calls, meter.input_bytes) == (0, 0)


@given(
    st.lists(st.tuples(st.integers(0, 50), st.none() | st.integers(0, 50))),
    st.none() | st.integers(1, 10),
    st.none() | st.integers(1, 200),
    st.none() | st.integers(1, 200),
)
def test_a_meter_is_never_over_its_limits_and_adds_up(calls, most, most_in, most_out):
    """Calls and prompts stay within; completions stop one call after their limit; what failed leaves no trace."""
    meter = Meter(most, most_in, most_out)
    done = []
    for size, said in calls:
        try:
            meter.begin(size)
        except Exhausted:
            continue
        meter.end(size, said)
        if said is not None:
            assert most_out is None or sum(out for _, out in done) < most_out
            done.append((size, said))
    assert (meter.calls, meter.input_bytes) == (len(done), sum(size for size, _ in done))
    assert meter.output_bytes == sum(out for _, out in done)
    assert most is None or meter.calls <= most
    assert most_in is None or meter.input_bytes <= most_in


def test_programs_are_models_in_python_too(programs):
    """RLM(lm=codex(), sub_lm=claude()) without the command line."""
    from dszig_py import RLM

    rlm = RLM("context -> answer", lm=codex("big"), sub_lm=claude())
    assert rlm(context="the text").answer == "plain: the text"
    assert repr(codex("big")) == "CommandLM(codex/big)"


def test_every_name_of_zigrlm_that_help_lists_is_a_command():
    """The list in the group, which loads nothing, and the commands themselves."""
    from dszig_py.cli.families import FAMILIES
    from dszig_py.cli.verbs import ALIASES

    assert set(ALIASES) == set(FAMILIES)


@pytest.mark.parametrize("args", [["echo", "hello"], ["--help"], ["run", "--help"], ["cli-codex", "--help"]])
def test_diagnostics_load_neither_litellm_nor_dspy(args: Sequence[str]):
    """They start in a fraction of a second."""
    command = [sys.executable, "-X", "importtime", "-m", "dszig_py", *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert done.returncode == 0 and "click" in loaded and not loaded & {"litellm", "dspy"}
