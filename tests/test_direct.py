"""The direct transport: OpenAI's protocol over real HTTP, held against LiteLLM where both must agree."""

from __future__ import annotations

import asyncio
import copy
import email.utils
import json
import pickle
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_server import Answer, Fault, ScriptedServer
from waiting import eventually, within

from dszig_py import RLM, Budget
from dszig_py.errors import InputError, LMError
from dszig_py.lm import DirectLM, LiteLLM, _completions, _endpoints, _price_list, _sessions, resolve
from dszig_py.lm.base import LM, Message, Reply, Request, StreamingLM

REPO = Path(__file__).parents[1]
SCHEMA = {"type": "object", "properties": {"answer": {"type": "string"}}}
TYPED = Request((Message("user", "u"),), schema=SCHEMA)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        yield server


def lm(server: ScriptedServer, model: str = "openai/scripted", **options) -> DirectLM:
    return DirectLM(model, api_base=server.url, api_key="sk-test-secret", **options)


def ask(model: LM, prompt: str | Request = "hello") -> Reply:
    return asyncio.run(model.complete(prompt if isinstance(prompt, Request) else Request.of(prompt)))


def refused(model: LM, prompt: str | Request = "hello") -> LMError:
    with pytest.raises(LMError) as caught:
        ask(model, prompt)
    return caught.value


# names and addresses


def test_the_string_names_this_transport():
    """ "direct:openai/MODEL" is a DirectLM, whose own name resolves to one again; without direct: it is LiteLLM."""
    made = resolve("direct:openai/own", prices={"openai/own": (1.0, 2.0)}, options={"temperature": 0.5})
    assert isinstance(made, DirectLM) and made.model == "direct:openai/own" and made.price == (1e-6, 2e-6)
    assert isinstance(resolve(made.model), DirectLM) and isinstance(resolve("openai/own"), LiteLLM)
    assert isinstance(made, LM) and isinstance(made, StreamingLM)


@pytest.mark.parametrize("model", ["direct:", "direct:gpt-5", "direct:anthropic/claude-sonnet-5", "direct:openai/"])
def test_other_protocols_are_refused_before_any_call(model):
    """A provider of another protocol, or a name without one, is an InputError that names the ones there are."""
    with pytest.raises(InputError, match="hosted_vllm"):
        RLM("a -> b", lm=model)(a="x")


def test_a_server_without_an_address_is_refused(monkeypatch):
    """Where only the user can know the address, its variable is named; nonsense is no address."""
    monkeypatch.delenv("HOSTED_VLLM_API_BASE", raising=False)
    with pytest.raises(InputError, match="HOSTED_VLLM_API_BASE"):
        DirectLM("hosted_vllm/qwen")
    with pytest.raises(InputError, match="http"):
        DirectLM("openai/x", api_base="file:///etc/passwd")


def test_the_environment_is_read_as_litellm_reads_it(server, monkeypatch):
    """OPENAI_BASE_URL goes before OPENAI_API_BASE; the key of OPENAI_API_KEY is sent."""
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_BASE", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "from-the-environment")
    assert ask(DirectLM("openai/x")).text == "hello"
    assert "Bearer from-the-environment" in server.requests[0].head


def test_addresses_and_keys_are_those_of_litellm(monkeypatch):
    """Every provider in the table answers where LiteLLM sends it, by default and by its variables."""
    litellm = pytest.importorskip("litellm")
    left_to_main = {"openai", "openrouter", "ollama_chat"}  # whose defaults LiteLLM has elsewhere
    for provider in _endpoints._PROVIDERS:
        for name in (f"{provider.upper()}_API_BASE", f"{provider.upper()}_API_KEY", "OPENAI_BASE_URL"):
            monkeypatch.delenv(name, raising=False)
        _, named, _, base = litellm.get_llm_provider(f"{provider}/m")
        assert named == provider
        if provider not in left_to_main:
            assert base == _endpoints._PROVIDERS[provider].base, provider
            monkeypatch.setenv(f"{provider.upper()}_API_BASE", "http://set/v1")
            monkeypatch.setenv(f"{provider.upper()}_API_KEY", "set")
            _, _, key, base = litellm.get_llm_provider(f"{provider}/m")
            found = _endpoints.endpoint(provider, {})
            assert (found.url, found.key) == (f"{base}/chat/completions", key), provider


def test_ollama_is_asked_at_its_openai_address(monkeypatch):
    """OLLAMA_API_BASE is the address of the native API; the OpenAI one is beside it. A call there costs nothing."""
    monkeypatch.setenv("OLLAMA_API_BASE", "http://127.0.0.1:11434/")
    assert _endpoints.endpoint("ollama", {}).url == "http://127.0.0.1:11434/v1/chat/completions"
    assert asyncio.run(DirectLM("ollama_chat/qwen").price_known())


def test_a_paid_provider_without_a_key_is_not_called(monkeypatch):
    """No key for a provider's own address: the variable is named, and nothing is sent."""
    monkeypatch.delenv("GROQ_API_KEY", raising=False)
    monkeypatch.delenv("GROQ_API_BASE", raising=False)
    error = refused(DirectLM("groq/x"))
    assert "GROQ_API_KEY" in str(error) and not error.retryable


# replies


def test_reply_and_usage(server):
    """Text, tokens, finish and model; the cost of an unknown model is unknown."""
    server.script([Answer("hi", usage=(7, 3))])
    reply = ask(lm(server))
    assert (reply.text, reply.finish, reply.model) == ("hi", "stop", "direct:openai/scripted")
    assert (reply.usage.calls, reply.usage.input_tokens, reply.usage.output_tokens) == (1, 7, 3)
    assert reply.usage.cost is None and not reply.usage.estimated and reply.usage.seconds > 0


def test_what_is_sent_is_what_litellm_sends(server):
    """The same request through LiteLLM and directly: the same body, but for the schema LiteLLM leaves out for strangers."""
    request = Request(
        (Message("system", "s"), Message("user", "u")), "3 left", max_tokens=9, temperature=0.25, options={"top_p": 0.5}
    )
    ask(lm(server, seed=4), request)
    ask(LiteLLM("openai/scripted", api_base=server.url, api_key="k", seed=4), request)
    direct, through = (dict(each.body) for each in server.requests)
    assert direct == through and direct["messages"][-1]["content"] == "u\n\n3 left"


def test_first_calls_side_by_side_wait_for_the_whole_library():
    """What another thread is importing is in sys.modules half made."""
    code = """
        import asyncio, sys
        from dszig_py.lm._sessions import library
        async def go():
            first = asyncio.create_task(library())
            while not first.done():
                if "aiohttp" in sys.modules:
                    (await library()).ClientSession
                await asyncio.sleep(0)
        asyncio.run(go())
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=60)


def test_images_are_sent_as_parts_of_the_last_message(server):
    """An image goes beside the text, as OpenAI has it."""
    server.handler = lambda body: "seen"
    ask(lm(server), Request((Message("user", "what is it?"),), images=("data:image/png;base64,AA==",)))
    parts = server.requests[0].body["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["text", "image_url"] and parts[1]["image_url"]["url"].startswith(
        "data:"
    )


def test_openai_itself_is_sent_its_own_name_for_the_limit():
    """Newer models of OpenAI's refuse max_tokens; other servers know nothing else."""
    request = Request.of("u")
    bodies = [
        json.loads(_completions.body_of("m", request, {"max_tokens": 5}, openai=openai, schema=False, stream=False))
        for openai in (True, False)
    ]
    assert [sorted(set(body) - {"model", "messages"}) for body in bodies] == [["max_completion_tokens"], ["max_tokens"]]


@given(st.text(alphabet=st.characters(), max_size=200))
@settings(max_examples=50)
def test_any_text_can_be_sent(text):
    """Whatever a str can hold becomes a valid body; lone surrogates become question marks."""
    body = _completions.body_of("m", Request.of(text), {}, openai=False, schema=False, stream=False)
    assert json.loads(body.decode("utf-8"))["messages"][0]["content"] == text.encode("utf-8", "replace").decode()


@pytest.mark.parametrize("status", [400, 404, 422, 501])
def test_a_schema_that_is_refused_is_left_out(server, status):
    """A server that refuses a schema is asked without it, once and for every later call; its failure then is the failure."""

    def handler(body):
        return Answer("no response_format here", status) if "response_format" in body else "fine"

    server.handler = handler
    model = lm(server)
    assert [ask(model, TYPED).text for _ in range(2)] == ["fine", "fine"]
    assert ["response_format" in each.body for each in server.requests] == [True, False, False]
    server.handler = lambda body: Answer("too long", 400)
    assert "too long" in str(refused(lm(server), TYPED))


def test_a_schema_goes_to_models_that_follow_one(server):
    """By LiteLLM's list: gpt-4o-mini does, gpt-4 does not, and a model nobody knows is asked."""
    server.handler = lambda body: "{}"
    for model in ("openai/gpt-4o-mini", "openai/gpt-4", "openai/own"):
        ask(lm(server, model), TYPED)
    assert ["response_format" in each.body for each in server.requests] == [True, False, True]
    assert server.requests[0].body["response_format"]["json_schema"]["schema"] == SCHEMA


@pytest.mark.parametrize("answer", [Answer(fault="empty_choices"), Answer(fault="null_content")])
def test_a_reply_without_text_is_empty(server, answer):
    """No choices or no content is an empty text, as it is through LiteLLM."""
    server.script([answer])
    assert ask(lm(server)).text == ""


def test_a_refusal_is_what_the_model_says(server):
    """OpenAI puts it into a field of its own and leaves the content empty."""
    server.script([Answer(fault="null_content", message={"refusal": "I will not."})])
    assert ask(lm(server)).text == "I will not."


def test_tokens_are_estimated_where_none_are_reported(server):
    """No usage in the reply: tokens by rule of thumb, marked as estimated; a known price still counts them."""
    server.script([Answer("x" * 40, usage=None)])
    usage = ask(lm(server, price=(1e-3, 1e-2)), "y" * 80).usage
    assert usage.estimated and (usage.input_tokens, usage.output_tokens) == (20, 10)
    assert usage.cost == pytest.approx(0.02 + 0.1)


# prices


def test_costs_are_those_litellm_computes():
    """Plain, cached and long prompts of models in the list cost what LiteLLM's own calculation says."""
    litellm = pytest.importorskip("litellm")
    _price_list.load()
    dearer = [n for n in _price_list._list or {} if any("above" in key for key in _price_list.entry("openai", n))]
    for name in ("gpt-4o-mini", "gpt-5", "deepseek/deepseek-chat", *dearer[:4]):
        provider, _, name = name.rpartition("/")
        provider = provider or "openai"
        listed = _price_list.entry(provider, name)
        for tokens, cached in ((1_000, 0), (1_000, 600), (300_000, 1_000)):
            details = litellm.types.utils.PromptTokensDetailsWrapper(cached_tokens=cached)
            usage = litellm.Usage(
                prompt_tokens=tokens, completion_tokens=50, total_tokens=tokens + 50, prompt_tokens_details=details
            )
            response = litellm.ModelResponse(model=name, usage=usage)
            expected = litellm.completion_cost(response, model=name, custom_llm_provider=provider)
            assert _price_list.cost(listed, tokens, 50, cached=cached) == pytest.approx(expected), (
                name,
                tokens,
                cached,
            )


def test_the_list_is_read_without_importing_litellm():
    """A known model's cost and window are known, and LiteLLM is not loaded for it."""
    code = """
        import asyncio, sys
        from dszig_py.lm import DirectLM
        lm = DirectLM("openai/gpt-4o-mini", api_key="k")
        assert lm.price is None
        assert asyncio.run(lm.price_known()) and lm.price[0] > 0 and lm.window_tokens > 1000
        assert not asyncio.run(DirectLM("openai/nobody-knows", api_key="k").price_known())
        print([m for m in ("litellm", "openai", "httpx", "dspy") if m in sys.modules])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_cached_tokens_cost_less(server):
    """Input tokens that the provider took from its cache cost the cached price."""
    counted = {"prompt_tokens": 1000, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 1000}}
    body = {"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}], "usage": counted}
    server.script([Answer("hi", usage=(1000, 10)), Answer(body=json.dumps(body).encode())])
    plain, cheaper = (ask(lm(server, "openai/gpt-4o-mini")).usage.cost for _ in range(2))
    assert plain is not None and cheaper is not None and 0 < cheaper < plain


# failures


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 529])
def test_statuses_worth_a_retry(server, status):
    """Overload, timeouts and server errors are retryable, named with model and status, and tried once."""
    server.script([Answer(status=status)] * 9)
    error = refused(lm(server))
    assert error.retryable and f"direct:openai/scripted: HTTP {status}: scripted {status}" in str(error)
    assert server.count == 1


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 422])
def test_statuses_not_worth_a_retry(server, status):
    """What the request or the key is to blame for is not retryable, and says why."""
    server.script([Answer("scripted reason", status=status)] * 9)
    error = refused(lm(server))
    assert not error.retryable and "scripted reason" in str(error) and server.count == 1


@pytest.mark.parametrize("fault", ["reset", "reset_mid_body", "bad_json", "empty_body", "wrong_type"])
def test_broken_answers_are_worth_a_retry(server, fault: Fault):
    """Broken connections, bodies and content types are retryable and claim no HTTP status."""
    server.script([Answer(fault=fault)] * 9)
    error = refused(lm(server))
    assert error.retryable and "HTTP" not in str(error) and server.count == 1


@pytest.mark.parametrize(
    "body",
    [b"[]", b"3", b'{"choices": 3}', b'{"choices": [7]}', b'{"choices": [{"message": []}], "usage": {"prompt_tokens": "x"}}',
     b'{"object": "list"}', b"\xff\xfe", b'{"choices": [{"message": {"content": {"a": 1}}}]}'],
)  # fmt: skip
def test_nonsense_is_an_empty_reply_or_a_typed_failure(server, body):
    """A server's answer of any shape never raises anything but an LMError."""
    server.script([Answer(body=body)])
    try:
        assert ask(lm(server)).text == ""
    except LMError as error:
        assert error.retryable


def test_an_error_in_an_answer_of_status_200_is_one(server):
    """Gateways answer 200 with an error inside: its own code decides."""
    server.script([Answer(body=b'{"error": {"message": "slow down", "code": 429}}')])
    error = refused(lm(server))
    assert error.retryable and "HTTP 429: slow down" in str(error)


def test_a_spent_account_is_not_retryable(server):
    """429 with insufficient_quota does not go away by waiting."""
    server.script([Answer(status=429, body=b'{"error": {"message": "pay", "code": "insufficient_quota"}}')])
    assert not refused(lm(server)).retryable


def test_retry_after(server):
    """The wait asked for is read from seconds, milliseconds and dates."""
    date = email.utils.formatdate(time.time() + 3_600, usegmt=True)
    headers = [{"Retry-After": "2"}, {"retry-after-ms": "1500", "retry-after": "9"}, {"Retry-After": date}, {}]
    server.script([Answer(status=429, headers=each) for each in headers])
    waits = [refused(lm(server)).retry_after for _ in headers]
    assert waits[:2] == [2.0, 1.5] and waits[3] is None and 3_000 < waits[2] <= 3_600


def test_a_timeout_is_retryable(server):
    """A server that hangs is given up after the timeout."""
    server.script([Answer(fault="hang")])
    error = refused(lm(server, timeout=0.2))
    assert error.retryable and "0.2 s" in str(error)


def test_nobody_listens():
    """A refused connection is retryable, a host without a name or a certificate's fault is told as itself."""
    assert refused(DirectLM("openai/x", api_base="http://127.0.0.1:9/v1", api_key="k")).retryable


def test_an_answer_without_end_is_cut_off(server, monkeypatch):
    """An answer larger than allowed is a failure that is not tried again, whether or not it says its size."""
    monkeypatch.setattr(_sessions, "MAX_REPLY", 1_000_000)
    server.script([Answer(fault="big")] * 2)
    assert "MiB" in str(error := refused(lm(server))) and not error.retryable
    with pytest.raises(LMError):
        asyncio.run(lm(server).stream(Request.of("x"), lambda text: None))


def test_a_redirect_is_not_followed(server):
    """A key is not carried to where a redirect leads: that is a failure which names the place."""
    with ScriptedServer() as elsewhere:
        server.script([Answer(status=307, headers={"Location": f"{elsewhere.url}/chat/completions"})])
        error = refused(lm(server))
        assert not error.retryable and elsewhere.url in str(error) and elsewhere.count == 0


def test_keys_are_never_shown(server):
    """Neither the repr nor an error's message shows a key, the user's own or another."""
    server.script([Answer("Incorrect API key provided: sk-test-secret, Bearer sk-oth***er", status=401)])
    model = lm(server, extra_headers={"x-key": "hidden"}, temperature=1.0)
    text = f"{refused(model)}{model!r}"
    assert "secret" not in text and "hidden" not in text and "sk-oth" not in text and "temperature=1.0" in text
    named = DirectLM("openai/x", api_base="http://me:secret@127.0.0.1:9/v1", api_key="sk-test-secret")
    assert "secret" not in f"{refused(named)}{named!r}"


# streams


def test_a_reply_is_told_as_it_comes(server):
    """The pieces joined are the text; usage is what the server reports at the end."""
    server.script([Answer("a long reply in pieces " * 5, usage=(7, 30))])
    heard: list[str] = []
    reply = asyncio.run(lm(server).stream(Request.of("go"), heard.append))
    assert "".join(heard) == reply.text == "a long reply in pieces " * 5 and len(heard) > 1
    assert (reply.usage.input_tokens, reply.usage.output_tokens, reply.finish) == (7, 30, "stop")


def test_a_server_that_does_not_stream_is_asked_for_the_whole(server):
    """Refused as a stream, or answered without one: the text still comes, in one piece."""
    server.handler = lambda body: Answer("no streams", 400) if body.get("stream") else "whole"
    heard: list[str] = []
    assert asyncio.run(lm(server).stream(Request.of("go"), heard.append)).text == "whole" and heard == ["whole"]


def test_a_stream_that_breaks_off_is_a_failure(server):
    """Half a stream is no reply."""
    server.script([Answer("a long reply in pieces " * 20, fault="reset_mid_body")])
    with pytest.raises(LMError) as caught:
        asyncio.run(lm(server).stream(Request.of("go"), lambda text: None))
    assert caught.value.retryable


@given(st.text(max_size=60), st.integers(1, 40))
@settings(max_examples=60)
def test_a_stream_may_be_cut_anywhere(text, size):
    """However the network cuts a stream's bytes, inside a line or a character, the text is the same."""
    chunks = [{"choices": [{"delta": {"content": char}}]} for char in text] + [
        {"choices": [{"delta": {}, "finish_reason": "stop"}]},
        {"choices": [], "usage": {"prompt_tokens": 3}},
    ]
    data = ": hello\r\n\r\n" + "".join(f"data: {json.dumps(c, ensure_ascii=False)}\r\n\r\n" for c in chunks)
    whole = (data + "data: [DONE]\n\n").encode("utf-8", "replace")

    async def pieces():
        for at in range(0, len(whole), size):
            yield whole[at : at + size]

    heard: list[str] = []
    made = asyncio.run(_completions.streamed(pieces(), heard.append))
    assert made.text == "".join(heard) == text.encode("utf-8", "replace").decode() and made.tokens_in == 3


# connections


def test_connections_are_kept(server):
    """Calls one after another share one connection; cookies a server sets are not sent back."""
    server.script([Answer("a", headers={"Set-Cookie": "who=me"}), "b", "c"])

    async def main() -> None:
        for _ in range(3):
            await lm(server).complete(Request.of("x"))

    asyncio.run(main())
    assert server.connections == 1 and "ookie" not in server.requests[1].head


def test_cancelling_closes_the_connection(server):
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


def test_event_loops_have_sessions_of_their_own_and_close_them(server):
    """One instance serves loops one after another; when a loop ends, its connections are gone."""
    model = lm(server)
    for _ in range(3):
        assert ask(model).text == "hello"
    within(lambda: not server.open)
    assert not [loop for loop in _sessions._open if loop.is_closed()]


def test_copies(server):
    """Copied, deep-copied and pickled, it answers the same."""
    model = lm(server)
    ask(model)
    for other in (copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert ask(other).text == "hello"


@pytest.mark.parametrize(
    "ending", ["asyncio.run(lm.complete(Request.of('x')))", "RLM('a -> b', lm=lm, max_iters=1)(a='x')"]
)
def test_nothing_is_printed(server, ending):
    """A program that ends with connections open prints nothing of them."""
    server.handler = lambda body: "```python\nSUBMIT(b='done')\n```"
    code = f"""
        import asyncio
        from dszig_py import RLM
        from dszig_py.lm import DirectLM, Request
        lm = DirectLM("openai/x", api_base={server.url!r}, api_key="k")
        {ending}
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True, text=True, timeout=60, cwd=REPO,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# whole runs


def test_a_run_retries_and_fans_out(server):
    """Root and sub-calls over this transport: a rate limit is waited out, a batch of 200 comes back in order."""
    seen = iter([Answer("slow", 429, headers={"retry-after-ms": "10"})])

    def handler(body):
        prompt = str(body["messages"][-1]["content"])
        if body["model"] == "sub":
            return next(seen, Answer(prompt.upper(), latency=0.02))
        return "```python\nr = llm_query_batched([f'q{i}' for i in range(200)])\nSUBMIT(answer=r[0] + r[199])\n```"

    server.handler = handler
    rlm = RLM(
        "text -> answer", lm=lm(server, "openai/root"), sub_lm=lm(server, "openai/sub"),
        budget=Budget(max_llm_calls=None, max_concurrency=100),
    )  # fmt: skip
    prediction = rlm(text="t")
    assert prediction.answer == "Q0Q199" and prediction.usage.calls == 201 and server.count == 202
    assert 1 < server.max_in_flight <= 100


def test_the_command_line_takes_it(server):
    """dszig run -m direct:openai/MODEL."""
    server.handler = lambda body: "```python\nSUBMIT(answer='yes')\n```"
    done = subprocess.run(
        [sys.executable, "-m", "dszig_py", "run", "question -> answer", "--question", "?", "-m", "direct:openai/own"],
        capture_output=True, text=True, timeout=60, cwd=REPO,
        env={"PATH": "/usr/bin:/bin", "OPENAI_API_BASE": server.url, "OPENAI_API_KEY": "k", "HOME": "/tmp"},
    )  # fmt: skip
    assert done.returncode == 0 and "yes" in done.stdout, done.stderr
