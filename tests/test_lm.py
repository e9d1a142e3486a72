"""Models: LiteLLM over real HTTP, commands, functions, scripts."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import email.utils
import gc
import pickle
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from scripted_server import Answer, Fault, ScriptedServer
from waiting import eventually, reached, within

from dszig_py.errors import InputError, LMError
from dszig_py.lm import command as command_module
from dszig_py.lm.base import LM, Message, Reply, Request
from dszig_py.lm.command import CommandLM
from dszig_py.lm.function import FunctionLM
from dszig_py.lm.litellm import LiteLLM, close_clients, known_price, preload
from dszig_py.lm.scripted import ScriptedLM

REPO = Path(__file__).parents[1]
SCHEMA = {"type": "object", "properties": {"answer": {"type": "string"}}}


@pytest.fixture(scope="module", autouse=True)
def _loaded() -> None:
    preload()  # or the first test's timeouts would measure the import


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        yield server


def lm(server: ScriptedServer, model: str = "openai/scripted", **options: Any) -> LiteLLM:
    return LiteLLM(model, api_base=server.url, api_key="sk-test-secret", **options)


def ask(model: LM, prompt: str | Request = "hello") -> Reply:
    return asyncio.run(model.complete(prompt if isinstance(prompt, Request) else Request.of(prompt)))


def refused(model: LM, prompt: str = "hello") -> LMError:
    with pytest.raises(LMError) as caught:
        ask(model, prompt)
    return caught.value


# LiteLLM: replies


def test_reply_and_usage(server: ScriptedServer) -> None:
    """The reply's text, tokens and finish come from the provider; the cost of an unknown model is unknown."""
    server.script([Answer("hi", usage=(7, 3))])
    reply = ask(lm(server))
    assert (reply.text, reply.finish, reply.model) == ("hi", "stop", "openai/scripted")
    assert (reply.usage.calls, reply.usage.input_tokens, reply.usage.output_tokens) == (1, 7, 3)
    assert reply.usage.cost is None and not reply.usage.estimated and reply.usage.seconds > 0


def test_it_is_an_lm(server: ScriptedServer) -> None:
    """Every kind fits the Protocol."""
    assert all(isinstance(model, LM) for model in (lm(server), CommandLM("cat"), FunctionLM(str.upper), ScriptedLM([])))


def test_messages_and_parameters_are_sent(server: ScriptedServer) -> None:
    """Roles, the remaining budget and parameters arrive; the request's own go before the model's options."""
    request = Request((Message("system", "s"), Message("user", "u")), "2 left", max_tokens=9, options={"top_p": 0.5})
    ask(lm(server, temperature=0.25, max_tokens=99), request)
    body = server.requests[0].body
    assert body["messages"] == [{"role": "system", "content": "s"}, {"role": "user", "content": "u\n\n2 left"}]
    assert (body["max_tokens"], body["temperature"], body["top_p"], body["model"]) == (9, 0.25, 0.5, "scripted")


def test_lone_surrogates_can_be_sent(server: ScriptedServer) -> None:
    """A lone surrogate becomes a question mark instead of an encoding error."""
    assert ask(lm(server), "a\ud800b").text == "a?b"


def test_schema_only_where_supported(server: ScriptedServer) -> None:
    """The schema goes to models that follow one, and is left out for others."""
    request = Request((Message("user", "u"),), schema=SCHEMA)
    ask(lm(server), request)
    ask(lm(server, "openai/gpt-4o-mini"), request)
    assert "response_format" not in server.requests[0].body
    assert server.requests[1].body["response_format"]["json_schema"]["schema"]["properties"] == SCHEMA["properties"]


def test_tokens_are_estimated_where_none_are_reported(server: ScriptedServer) -> None:
    """No usage in the reply: tokens by rule of thumb, marked as estimated, and a known price still counts them."""
    server.script([Answer("x" * 40, usage=None)] * 2)
    assert ask(lm(server), "y" * 80).usage.estimated
    usage = ask(lm(server, price=(1e-3, 1e-2)), "y" * 80).usage
    assert (usage.input_tokens, usage.output_tokens) == (20, 10)
    assert usage.cost == pytest.approx(0.02 + 0.1)


def test_the_users_price_goes_first(server: ScriptedServer) -> None:
    """A price given by the user beats the one LiteLLM knows."""
    server.script([Answer("hi", usage=(100, 10))])
    assert ask(lm(server, "openai/gpt-4o-mini", price=(0.5, 2.0))).usage.cost == pytest.approx(70.0)


def test_a_known_model_costs_what_it_costs(server: ScriptedServer) -> None:
    """A model of LiteLLM's map costs its price, cached input tokens at the cached price."""
    cached = b"""{"id": "x", "object": "chat.completion", "created": 1, "model": "gpt-4o-mini", "choices": [{"index": 0,
        "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 1000,
        "completion_tokens": 10, "total_tokens": 1010, "prompt_tokens_details": {"cached_tokens": 1000}}}"""
    server.script([Answer("hi", usage=(1000, 10)), Answer(body=cached)])
    plain, cheaper = (ask(lm(server, "openai/gpt-4o-mini")).usage.cost for _ in range(2))
    assert plain is not None and cheaper is not None and 0 < cheaper < plain


@pytest.mark.parametrize("model", ["openai/gpt-5-that-nobody-knows", "openai/scripted"])
def test_an_unknown_cost_is_never_zero(server: ScriptedServer, model: str) -> None:
    """LiteLLM says $0.00 for names that merely look familiar; we say unknown."""
    assert ask(lm(server, model)).usage.cost is None


def test_price_known(server: ScriptedServer) -> None:
    """Known: in the map, given by the user, or run on the user's own machine (at no price)."""
    assert known_price("openai/gpt-4o-mini") and known_price("ollama/llama3") and known_price("ollama_chat/own")
    assert not known_price("openai/scripted") and not known_price("openai/gpt-5-that-nobody-knows")
    assert not asyncio.run(lm(server).price_known())
    assert asyncio.run(lm(server, price=(0.0, 0.0)).price_known())
    assert asyncio.run(lm(server, "openai/gpt-4o-mini").price_known())


@pytest.mark.parametrize(
    "answer", [Answer(fault="empty_choices"), Answer(fault="null_content", message={"reasoning_content": "hm"})]
)
def test_a_reply_without_text_is_empty(server: ScriptedServer, answer: Answer) -> None:
    """No choices or no content is an empty text, for the model to hear about; never an error."""
    server.script([answer])
    assert ask(lm(server)).text == ""


def test_a_refusal_is_what_the_model_says(server: ScriptedServer) -> None:
    """OpenAI puts it into a field of its own and leaves the content empty; code would take "" for an answer."""
    server.script([Answer(fault="null_content", message={"refusal": "I will not."})])
    assert ask(lm(server)).text == "I will not."


def test_a_big_reply_arrives(server: ScriptedServer) -> None:
    """Five million characters arrive whole."""
    server.script([Answer(fault="big")])
    assert len(ask(lm(server)).text) == 5_000_000


# LiteLLM: failures


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 529])
def test_statuses_worth_a_retry(server: ScriptedServer, status: int) -> None:
    """Overload, timeouts and server errors are retryable, named with model and status, and tried once."""
    server.script([Answer(status=status)] * 9)
    error = refused(lm(server))
    assert error.retryable and f"HTTP {status}" in str(error) and str(error).startswith("openai/scripted: ")
    assert server.count == 1


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 422])
def test_statuses_not_worth_a_retry(server: ScriptedServer, status: int) -> None:
    """What the request or the key is to blame for is not retryable."""
    server.script([Answer("scripted reason", status=status)] * 9)
    error = refused(lm(server))
    assert not error.retryable and "scripted reason" in str(error)
    assert error.__cause__ is not None and server.count == 1


@pytest.mark.parametrize("fault", ["reset", "reset_mid_body", "bad_json", "empty_body", "wrong_type"])
def test_broken_answers_are_worth_a_retry(server: ScriptedServer, fault: Fault) -> None:
    """Broken connections and bodies are retryable and claim no HTTP status."""
    server.script([Answer(fault=fault)] * 9)
    error = refused(lm(server))
    assert error.retryable and "HTTP" not in str(error)
    assert server.count == 1


def test_a_context_overflow_is_not_retryable(server: ScriptedServer) -> None:
    """A prompt that is too long stays too long."""
    server.script([Answer("maximum context length is 4096 tokens", status=400)])
    assert not refused(lm(server)).retryable


def test_a_spent_account_is_not_retryable(server: ScriptedServer) -> None:
    """429 with insufficient_quota does not go away by waiting."""
    server.script([Answer(status=429, body=b'{"error": {"message": "pay", "code": "insufficient_quota"}}')])
    assert not refused(lm(server)).retryable


def test_retry_after(server: ScriptedServer) -> None:
    """The wait asked for is read from seconds, milliseconds and dates; nonsense is none, and so is a moment that is over."""
    date = email.utils.formatdate(time.time() + 3_600, usegmt=True)
    headers: list[dict[str, str]] = [
        {"Retry-After": "2"}, {"retry-after-ms": "1500", "retry-after": "9"}, {"Retry-After": date},
        {"Retry-After": "-3"}, {"Retry-After": "0"}, {"Retry-After": "soon"}, {"Retry-After": "nan"}, {},
    ]  # fmt: skip
    server.script([Answer(status=429, headers=each) for each in headers])
    waits = [refused(lm(server)).retry_after for _ in headers]
    assert waits[:2] == [2.0, 1.5] and waits[3:] == [None] * 5
    assert waits[2] is not None and 3_000 < waits[2] <= 3_600


def test_a_timeout_is_retryable(server: ScriptedServer) -> None:
    """A provider that hangs is given up after the timeout."""
    server.script([Answer(fault="hang")])
    assert refused(lm(server, timeout=0.3)).retryable


def test_nobody_listens() -> None:
    """A refused connection is retryable, and says where to, with no more of the address than that."""
    error = refused(LiteLLM("openai/x", api_base="http://me:word@127.0.0.1:9/v1?key=k", api_key="k", timeout=60))
    assert error.retryable
    assert "no connection to 127.0.0.1:9" in str(error)
    assert "word" not in str(error)


def test_what_the_user_must_mend_is_not_retryable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing key or an unknown provider, though LiteLLM calls the former a server error."""
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for model in ("openai/scripted", "gemini/gemini-2.5-pro", "nobody/nothing"):
        assert not refused(LiteLLM(model, timeout=60)).retryable, model


def test_keys_are_never_shown(server: ScriptedServer) -> None:
    """Neither the repr nor an error message shows a key."""
    server.script([Answer("Incorrect API key provided: sk-test-secret, Bearer sk-oth***er", status=401)])
    model = lm(server, extra_headers={"x-key": "hidden"}, temperature=1.0)
    text = f"{refused(model)}{model!r}"
    assert "secret" not in text and "hidden" not in text and "sk-oth" not in text and "temperature=1.0" in text


def test_cancelling_closes_the_connection(server: ScriptedServer) -> None:
    """A cancelled call whose answer never comes ends, and hangs up."""
    server.script([Answer(fault="hang")])

    async def main() -> None:
        task = asyncio.create_task(lm(server).complete(Request.of("hello")))
        await eventually(lambda: server.in_flight == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 60)
        await eventually(lambda: server.dropped == 1)

    asyncio.run(main())


def test_event_loops_one_after_another_and_at_once(server: ScriptedServer) -> None:
    """Successive and simultaneous loops each use their own connections, and close them at their end."""
    model = lm(server)
    assert [ask(model, str(i)).text for i in range(3)] == ["0", "1", "2"]
    texts: list[str] = []

    def several() -> None:
        async def main() -> list[Reply]:
            return await asyncio.gather(*(model.complete(Request.of("x")) for _ in range(5)))

        texts.extend(reply.text for reply in asyncio.run(main()))

    threads = [threading.Thread(target=several) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == ["x"] * 20
    asyncio.run(eventually(lambda: not server.open))


def test_closing_clients_spares_other_loops(server: ScriptedServer) -> None:
    """close_clients closes this loop's connections, which open again when needed; another loop's request goes on."""
    other = threading.Thread(target=lambda: texts.append(ask(lm(server), "slow").text))
    texts: list[str] = []

    goes_on = threading.Event()

    def handler(body: dict[str, Any]) -> Answer:
        return Answer("slow", until=goes_on) if body["messages"][0]["content"] == "slow" else Answer("fast")

    server.handler = handler

    async def main() -> None:
        await lm(server).complete(Request.of("x"))
        other.start()
        await eventually(lambda: server.in_flight == 1)
        assert len(server.open) == 2
        await close_clients()
        await eventually(lambda: len(server.open) == 1)
        assert (await lm(server).complete(Request.of("x"))).text == "fast"

    asyncio.run(main())
    goes_on.set()
    other.join()
    assert texts == ["slow"]


def test_clients_that_litellm_forgets_are_closed(server: ScriptedServer) -> None:
    """LiteLLM drops a client from its cache after an hour; such a one is closed at the loop's end as well."""
    import litellm

    cache: Any = litellm.in_memory_llm_clients_cache

    async def main() -> None:
        await lm(server).complete(Request.of("x"))
        mine = [key for key in cache.cache_dict if key.endswith(f"-{id(asyncio.get_running_loop())}")]
        assert mine
        for key in mine:
            cache._remove_key(key)
        gc.collect()
        await lm(server).complete(Request.of("x"))
        assert len(server.open) == 2

    asyncio.run(main())
    asyncio.run(eventually(lambda: not server.open))


def test_copies(server: ScriptedServer) -> None:
    """A LiteLLM can be deep-copied and pickled, used or not."""
    model = lm(server, price=(1.0, 1.0))
    ask(model)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.model == model.model and twin.price == (1.0, 1.0) and ask(twin).text == "hello"


def run_script(code: str, *arguments: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(code), *arguments],
        cwd=REPO, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize("ending", ["", "os._exit(0)", "sys.exit(0)"])
def test_nothing_is_printed(server: ScriptedServer, ending: str) -> None:
    """A plain script with good and bad calls, two loops and one never closed, prints nothing, also at its exit."""

    def handler(body: dict[str, Any]) -> Answer:
        return Answer("no", status=500 if body["messages"][0]["content"] == "bad" else 200)

    server.handler = handler
    done = run_script(
        f"""
        import asyncio, os, sys
        from dszig_py.lm.base import Request
        from dszig_py.lm.litellm import LiteLLM
        lm = LiteLLM("openai/scripted", api_base=sys.argv[1], api_key="k")
        async def main():
            await lm.complete(Request.of("good"))
            try:
                await lm.complete(Request.of("bad"))
            except Exception:
                pass
        asyncio.run(main())
        asyncio.run(main())
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        {ending}
        """,
        server.url,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert server.count == 6


def test_a_loop_that_is_left_for_another_reports_nothing(server: ScriptedServer) -> None:
    """Used on the background loop and then on another, LiteLLM drops a task of its own; asyncio says nothing of it."""
    done = run_script(
        """
        import asyncio, gc, sys
        from dszig_py import portal
        from dszig_py.lm import LiteLLM
        from dszig_py.lm.base import Request
        lm = LiteLLM("openai/scripted", api_base=sys.argv[1], api_key="k")
        portal.call(lm.complete, Request.of("x"))
        asyncio.run(lm.complete(Request.of("x")))
        gc.collect()
        """,
        server.url,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert server.count == 2


def test_importing_the_module_is_cheap() -> None:
    """LiteLLM is loaded at the first call, not at import."""
    code = "import sys, dszig_py.lm.litellm as m; m.LiteLLM('x/y'); print({'litellm', 'openai'} & set(sys.modules))"
    assert run_script(code).stdout == "set()\n"


def test_loading_does_not_block_the_loop(server: ScriptedServer) -> None:
    """While LiteLLM is imported for the first call, the loop goes on ticking."""
    done = run_script(
        """
        import asyncio, sys
        from dszig_py.lm.base import Request
        from dszig_py.lm.litellm import LiteLLM
        async def main():
            lm = LiteLLM("openai/scripted", api_base=sys.argv[1], api_key="k")
            tasks = [asyncio.create_task(lm.complete(Request.of("x"))) for _ in range(20)]
            ticks = 0
            while not all(task.done() for task in tasks):
                await asyncio.sleep(0.01)
                ticks += 1
            print(ticks > 10, {task.result().text for task in tasks})
        asyncio.run(main())
        """,
        server.url,
    )
    assert done.stdout == "True {'x'}\n"


# Commands


def test_a_command_answers() -> None:
    """stdin to stdout; the name is the program's; tokens are estimated, the cost unknown."""
    reply = ask(CommandLM("/bin/cat"), "  grüße\ud800  ")
    assert (reply.text, reply.model) == ("grüße?", "cat")
    assert reply.usage.estimated and reply.usage.cost is None and reply.usage.calls == 1


def test_command_forms() -> None:
    """A string is shell, a sequence is a program with arguments."""
    assert ask(CommandLM("tr a-z A-Z | rev"), "abc").text == "CBA"
    assert ask(CommandLM(["tr", "a", "$HOME | cat"]), "a").text == "$"
    assert CommandLM("KEY=1 /usr/bin/env python -c 'x'").model == "env" and CommandLM(["/a/b"], model="m").model == "m"
    for empty in ("", " ", [], [" "]):
        with pytest.raises(InputError):
            CommandLM(empty)


def test_a_command_need_not_read() -> None:
    """A program that ignores a prompt of a megabyte is fine, and big ones pass through without a deadlock."""
    assert ask(CommandLM("true"), "x" * 1_000_000).text == ""
    assert ask(CommandLM("cat; echo; echo noise >&2"), "x" * 3_000_000).text == "x" * 3_000_000


def test_stderr_is_no_failure() -> None:
    """What a program says on stderr does not matter while it succeeds."""
    assert ask(CommandLM("echo warning >&2; echo fine")).text == "fine"


def test_undecodable_output() -> None:
    """Bytes that are no UTF-8 are replaced."""
    assert ask(CommandLM(r"printf 'a\377b'")).text == "a\ufffdb"


def test_a_failing_command() -> None:
    """The error names exit code or signal and the end of stderr, and is not retryable."""
    error = refused(CommandLM("seq 1 5000 >&2; echo out; exit 3"))
    assert "exit code 3" in str(error) and str(error).endswith("5000") and len(str(error)) < 2200
    assert not error.retryable
    assert "signal 9" in str(refused(CommandLM("kill -9 $$")))
    assert "could not be started: no program '/nowhere/nothing' is found" in str(
        refused(CommandLM(["/nowhere/nothing"]))
    )
    assert "exit code 127" in str(refused(CommandLM("nowhere-nothing")))


def alive(pid_file: Path) -> bool:
    """Whether a process with the file's pid still runs (a zombie waiting for its reaper does not)."""
    try:
        stat = Path(f"/proc/{int(pid_file.read_text())}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_a_timeout_kills_the_commands_children(tmp_path: Path) -> None:
    """After the timeout neither the program nor what it started is left, though that would go on for long."""
    pids, told = tmp_path / "pid", []

    def attempt(seconds: float) -> bool:
        error = refused(CommandLM(f"sleep 600 & echo thinking >&2; echo $! > {pids}; wait", timeout=seconds))
        assert f"{seconds:g} seconds" in str(error) and not error.retryable
        told.append(str(error))
        return pids.exists() and pids.read_text().endswith("\n")

    reached(attempt, 0.5)
    assert "thinking" in told[-1]
    within(lambda: not alive(pids))


def test_cancelling_kills_the_command(tmp_path: Path) -> None:
    """A cancelled call ends, and kills the program and its children, which would go on for long."""
    pids = tmp_path / "pid"
    command = f"cat; sleep 600 & echo $! > {pids}; wait"

    async def main() -> None:
        task = asyncio.create_task(CommandLM(command).complete(Request.of("x")))
        await eventually(lambda: pids.exists() and pids.read_text().endswith("\n"))
        assert alive(pids)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 60)
        await eventually(lambda: not alive(pids))

    asyncio.run(main())


@pytest.mark.parametrize("rounds", range(8))
def test_cancelling_a_command_while_it_starts_kills_its_children(tmp_path: Path, rounds: int) -> None:
    """However many rounds of the event loop it has had, which is held up while the program already starts others."""
    pids = tmp_path / "pid"

    def told() -> bool:
        return pids.exists() and pids.read_text().endswith("\n")

    async def main() -> None:
        task = asyncio.create_task(CommandLM(f"sleep 600 & echo $! > {pids}; wait").complete(Request.of("x")))
        for _ in range(rounds):
            await asyncio.sleep(0)
        with suppress(AssertionError):  # nothing has been started in the first rounds
            within(told, 0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 60)
        await eventually(lambda: not (told() and alive(pids)))

    asyncio.run(main())


def test_a_runaway_command_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Output without end is cut off and the program killed."""
    monkeypatch.setattr(command_module, "MAX_OUTPUT", 1 << 20)
    assert "more than 1 MiB" in str(refused(CommandLM("yes", timeout=60)))


def test_many_commands_at_once_from_a_thread(tmp_path: Path) -> None:
    """Twenty commands that wait for each other, also on a loop outside of the main thread."""
    replies: list[Reply] = []
    meet = f"touch {tmp_path}/$$; until [ $(ls {tmp_path} | wc -l) -ge 20 ]; do sleep 0.1; done; cat"

    async def main() -> None:
        replies.extend(
            await asyncio.gather(*(CommandLM(meet, timeout=60).complete(Request.of("x")) for _ in range(20)))
        )

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    thread.join()
    assert [reply.text for reply in replies] == ["x"] * 20


# Functions

CONTEXT: contextvars.ContextVar[str] = contextvars.ContextVar("CONTEXT", default="none")


async def shout(prompt: str) -> str:
    await asyncio.sleep(0)
    return prompt.upper()


class Shouter:
    async def __call__(self, prompt: str) -> str:
        return prompt.upper()


def later(prompt: str) -> Awaitable[str]:
    return shout(prompt)


def listed(prompt: str) -> list[str]:
    return [prompt.upper(), "second"]


def mapped(prompt: str) -> list[dict[str, Any]]:
    return [{"text": prompt.upper(), "logprobs": None}]


@pytest.mark.parametrize("function", [str.upper, shout, Shouter(), later, listed, mapped])
def test_functions(function: Callable[[str], Any]) -> None:
    """Sync, async, an object, one returning an awaitable, and DSPy's lists all give the text."""
    reply = ask(FunctionLM(function))
    assert reply.text == "HELLO" and reply.usage.estimated and reply.usage.cost is None and reply.model


def test_functions_see_the_callers_context_and_run_at_once() -> None:
    """Context variables cross over; a hundred calls that block until all of them are under way."""

    async def main() -> list[Reply]:
        CONTEXT.set("mine")
        together = threading.Barrier(100, timeout=60)
        model = FunctionLM(lambda _: together.wait() >= 0 and CONTEXT.get())
        return await asyncio.gather(*(model.complete(Request.of("x")) for _ in range(100)))

    assert {reply.text for reply in asyncio.run(main())} == {"mine"}


def raising(error: BaseException) -> Callable[[str], str]:
    def function(prompt: str) -> str:
        raise error

    return function


def test_failing_functions() -> None:
    """What a function raises becomes an LMError naming it; an LMError stays what it is; no text is a failure."""
    for error in (ValueError("bad"), StopIteration("bad"), SystemExit("bad")):
        failure = refused(FunctionLM(raising(error), model="f"))
        assert str(failure) == f"f: {type(error).__name__}: bad" and not failure.retryable
    mine = LMError("busy", retryable=True, retry_after=3)
    assert refused(FunctionLM(raising(mine))) is mine
    nothings: list[Any] = [None, [], 3, b"x"]
    assert "not bytes" in str(refused(FunctionLM(lambda _: nothings.pop())))
    while nothings:
        assert "a model returns a str" in str(refused(FunctionLM(lambda _: nothings.pop())))


def test_cancelling_a_function_does_not_wait_for_it() -> None:
    """The caller is back while the function is still blocked, and so is the loop at its end."""
    begun, release, over = threading.Event(), threading.Event(), threading.Event()

    def blocked(prompt: str) -> str:
        begun.set()
        release.wait(600)
        over.set()
        return ""

    async def main() -> None:
        task = asyncio.create_task(FunctionLM(blocked).complete(Request.of("x")))
        await eventually(begun.is_set)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 60)

    asyncio.run(main())
    assert not over.is_set()
    release.set()
    assert over.wait(60)


# Scripts


def test_a_script_is_followed() -> None:
    """Texts, computed texts and exceptions in order, then an LMError saying after how many."""
    model = ScriptedLM(["one", lambda request: request.prompt[::-1], LMError("busy", retryable=True), ValueError("x")])
    assert [ask(model).text, ask(model, "abc").text] == ["one", "cba"]
    assert refused(model).retryable
    with pytest.raises(ValueError, match="x"):
        ask(model)
    assert "after 4 replies" in str(refused(model))
    assert [request.prompt for request in model.requests] == ["hello", "abc", "hello", "hello", "hello"]


def test_script_options() -> None:
    """The last reply repeats on demand, one callable answers all, cost and delay are as given."""
    model = ScriptedLM(["only"], repeat_last=True, cost=0.5, model="fake", delay=0.05)
    replies = [ask(model) for _ in range(3)]
    assert [r.text for r in replies] == ["only"] * 3
    assert all(r.usage.cost == 0.5 and r.model == "fake" and r.usage.seconds >= 0.04 for r in replies)
    assert ask(ScriptedLM(lambda request: request.prompt.upper())).text == "HELLO"
    with pytest.raises(InputError):
        ScriptedLM("one string")


def test_script_copies_go_on_alone() -> None:
    """A deep copy or a pickle continues at the same place without touching the original."""
    model = ScriptedLM(["1", "2", "3"])
    ask(model)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert [ask(twin).text, ask(twin).text] == ["2", "3"]
    assert ask(model).text == "2" and len(model.requests) == 2


def test_a_script_is_shared_by_threads() -> None:
    """Every reply is given exactly once, whoever asks."""
    model = ScriptedLM([str(i) for i in range(200)])
    texts: list[str] = []

    def work() -> None:
        for _ in range(20):
            texts.append(ask(model).text)

    threads = [threading.Thread(target=work) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(texts, key=int) == [str(i) for i in range(200)]


# The server itself


@pytest.mark.filterwarnings("ignore:.*ReadOnly:UserWarning")  # pydantic's, at one of LiteLLM's types
def test_the_server_streams(server: ScriptedServer) -> None:
    """Streaming works well enough for LiteLLM."""
    import litellm

    stream: Any = litellm

    async def main() -> str:
        message = {"role": "user", "content": "a text that is longer than one piece"}
        chunks = await stream.acompletion(
            model="openai/scripted", messages=[message], api_base=server.url, api_key="k", stream=True
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])
        await close_clients()
        return text

    assert asyncio.run(main()) == "a text that is longer than one piece"


def test_scripts_by_model(server: ScriptedServer) -> None:
    """Each model has its own script; one that is over says so."""
    server.script({"main": ["m1"], "*": ["any"]})
    assert ask(lm(server, "openai/main")).text == "m1" and ask(lm(server)).text == "any"
    assert "script is over" in str(refused(lm(server, "openai/main")))
    assert server.max_in_flight == 1 and server.in_flight == 0 and server.prompt_bytes > 0


@pytest.mark.parametrize("model", ["openai/my-model", "hosted_vllm/my-model", "openrouter/qwen/qwen3-coder"])
def test_the_kinds_of_server_the_readme_names_are_reached(model):
    """A local OpenAI-compatible server, vLLM and OpenRouter go over HTTP to the api_base given."""
    with ScriptedServer(lambda body: "pong") as server:
        lm = LiteLLM(model, api_base=server.url, api_key="none")
        assert asyncio.run(lm.complete(Request.of("ping"))).text == "pong"


@pytest.mark.parametrize(
    ("model", "provider"),
    [("ollama_chat/qwen3", "ollama_chat"), ("huggingface/together/Qwen/Qwen3-32B", "huggingface")],
)
def test_the_other_model_strings_of_the_readme_name_a_provider(model, provider):
    """Their own protocols are LiteLLM's affair; the strings are ones it routes."""
    import litellm

    assert litellm.get_llm_provider(model)[1] == provider
