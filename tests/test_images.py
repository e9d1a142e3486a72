"""Images as inputs: by value into the REPL, from there to sub-calls as content parts, never a byte of them in a record."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import struct
import threading
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from scripted_server import ScriptedServer
from test_documents import library, pdf

from dszig_py import (
    RLM,
    Budget,
    Folder,
    Image,
    InputError,
    LMError,
    ReplayMismatch,
    Signature,
    SignatureError,
    Strategy,
    Trajectory,
    read_document,
)
from dszig_py.cli import main
from dszig_py.contract import SubmissionRefused, compile_contract
from dszig_py.environments.interpreter import InterpreterEnvironment
from dszig_py.images import CODE, MOST, about
from dszig_py.lm import FunctionLM, Message, Recorded, Replayed, Request, ScriptedLM, resolve
from dszig_py.lm.base import IMAGE_TOKENS, sees_images
from dszig_py.typed import BadReply, read
from dszig_py.validation import coerce


def png(shade=0, size=8):
    """A real one: a square of one grey."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes([shade]) * size for _ in range(size))
    head = struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


DARK, LIGHT = png(10), png(240)
JPEG = b"\xff\xd8\xff\xe0 and so on"


def cell(code):
    return f"```python\n{code}\n```"


def sent(body):
    """The images of a request's last message, and its text."""
    content = body["messages"][-1]["content"]
    if isinstance(content, str):
        return [], content
    urls = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
    return urls, " ".join(part["text"] for part in content if part["type"] == "text")


class Seeing:
    """A provider that runs ``code`` once, and names the shades of what it is shown."""

    def __init__(self, code):
        self.code, self.shown = code, []

    def __call__(self, body):
        if "live REPL" in str(body["messages"][0]["content"]):
            return cell(self.code)
        urls, text = sent(body)
        self.shown.append((urls, text))
        data = [base64.b64decode(url.partition(",")[2]) for url in urls]
        told = ", ".join({DARK: "dark", LIGHT: "light"}.get(one, "other") for one in data)
        return json.dumps({"shade": told}) if "JSON" in str(body["messages"][0]["content"]) else told


def seen(code, signature="page: Image, question -> answer: str", model="direct:openai/x", **inputs):
    provider = Seeing(code)
    with ScriptedServer(provider) as server:
        rlm = RLM(signature, lm=model, lm_options={"api_base": server.url, "api_key": "k"})
        return rlm(**inputs), provider


@pytest.mark.parametrize("model", ["direct:openai/x", "openai/x"])
def test_llm_query_shows_a_model_the_image(model):
    """The bytes of the input arrive at the provider as a content part, by either transport."""
    code = "SUBMIT(answer=llm_query(question, images=[page]))"
    pred, provider = seen(code, page=Image(DARK), question="what shade?", model=model)
    assert pred.answer == "dark"
    ((urls, text),) = provider.shown
    assert (len(urls), text) == (1, "what shade?")
    assert urls[0].startswith("data:image/png;base64,")


def test_typed_sub_calls_take_images_by_name():
    """One, a list of them, many calls at once; the prompt names each by its number."""
    code = """
one = predict('page: Image, question -> shade', page=pages[1], question=question)
both = predict('pages: list[Image] -> shade: str', pages=pages)
each = predict_batched('page: Image -> shade', [{'page': p} for p in pages])
SUBMIT(answer=[one, both, *each])
"""
    signature = "pages: list[Image], question -> answer: list[str]"
    pred, provider = seen(code, signature, pages=[Image(DARK), Image(LIGHT)], question="what?")
    assert pred.answer == ["light", "dark, light", "dark", "light"]
    texts = [text for _, text in provider.shown]
    assert texts[0] == "page:\n(image 1)\n\nquestion:\nwhat?"
    assert "(image 1)" in texts[1]
    assert "(image 2)" in texts[1]


def test_code_holds_the_bytes_and_may_send_its_own():
    """What it cut or drew itself, as bytes; a printed image is short."""
    code = (
        "print(page)\nown = bytes(page.data)\nSUBMIT(answer=llm_query('x', images=[own, page]) + ' ' + page.media_type)"
    )
    pred, provider = seen(code, page=Image(png(240, 64) + b"\0" * 100_000), question="")
    assert pred.answer == "other, other image/png"
    shown = pred.trajectory.iterations[0].observation
    assert "bytes)" in shown
    assert len(shown) < 400
    assert provider.shown[0][0][0] == provider.shown[0][0][1]


def test_child_runs_take_images():
    """By value, as the root does; at the bottom of the tree they become a typed call."""
    replies = [
        cell("SUBMIT(answer=rlm_query('page: Image -> shade: str', page=page))"),
        cell("SUBMIT(shade=llm_query('in the child', images=[page]))"),
        "dark",
    ]
    lm = ScriptedLM(replies)
    pred = RLM("page: Image -> answer", lm=lm)(page=Image(DARK))
    assert pred.answer == "dark"
    assert lm.requests[-1].images == (Image(DARK).url,)
    assert "page: Image, image/png" in lm.requests[1].messages[1].content


def test_the_contract_tells_kind_and_size_and_what_sees():
    """Never the data; a list by its number, other inputs get no such note."""
    lm = ScriptedLM([cell("SUBMIT(answer='x')")] * 2)
    RLM("pages: list[Image], text: str -> answer", lm=lm)(pages=[Image(DARK), Image(JPEG)], text="t")
    told = lm.requests[0].messages[1].content
    assert f"[Image(image/png, {len(DARK)} bytes), Image(image/jpeg, {len(JPEG)} bytes)]" in told
    assert "pages: list[Image], 2 items" in told
    assert "You see no images. Sub-calls do: llm_query(prompt, images=[...])" in told
    RLM("text: str -> answer", lm=lm)(text="t")
    assert "images" not in lm.requests[1].messages[1].content


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("'/etc/hostname'", "pass an image that is an input"),
        ("'http://127.0.0.1/x.png'", "pass an image that is an input"),
        ("{'address': 'http://127.0.0.1/x.png'}", "pass an image that is an input"),
        ("{'path': '/etc/hostname'}", "pass an image that is an input"),
        ("{'image': 'page'}", "no image input is called 'page'"),
        ("b'no picture'", "no PNG, JPEG, GIF or WebP"),
        ("None", "pass an image that is an input"),
        ("{'data': b'', 'address': ''}", "pass an image that is an input"),
    ],
)
def test_code_sends_bytes_and_what_it_was_given_and_nothing_else(given, told):
    """No path of the host's, no address of its own, which could carry data out; the refusal is the cell's error."""
    code = f"try: llm_query('x', images=[{given}])\nexcept Exception as e: first = str(e)\n"
    code += f"try: predict('page: Image -> shade', page={given})\nexcept Exception as e: SUBMIT(answer=[first, str(e)])"
    lm = ScriptedLM([cell(code)])
    pred = RLM("page: Image -> answer: list[str]", lm=lm)(page=Image(DARK))
    assert told in pred.answer[0]
    assert len(lm.requests) == 1
    assert pred.answer[1].startswith("page: ")


def test_an_address_that_was_given_is_sent_as_it_is():
    """The provider fetches it; the code holds the address and no bytes."""
    address = "https://example.com/scan.png"
    lm = ScriptedLM([cell("SUBMIT(answer=llm_query(page.address, images=[page]))"), "seen"])
    assert RLM("page: Image -> answer", lm=lm)(page=Image.of(address)).answer == "seen"
    assert lm.requests[1].images == (address,)


def test_a_model_that_is_known_not_to_see_is_not_asked():
    """The cell's error names it; one that nobody knows of is asked. Models as functions and commands take text only."""
    code = "try: llm_query('x', images=[page])\nexcept Exception as e: SUBMIT(answer=str(e))"
    for name in ("openai/o3-mini", "direct:openai/o3-mini"):
        pred = RLM("page: Image -> answer", lm=ScriptedLM([cell(code)]), sub_lm=name)(page=Image(DARK))
        assert "o3-mini does not see images" in pred.answer
        assert pred.usage.calls == 1
    pred = RLM("page: Image -> answer", lm=ScriptedLM([cell(code)]), sub_lm=FunctionLM(lambda p: "x"))(page=Image(DARK))
    assert "takes text only" in pred.answer

    async def known():
        names = ("openai/gpt-4o", "direct:openai/gpt-4o", "openai/nobody-knows", "direct:openai/nobody-knows")
        return [await sees_images(resolve(name)) for name in names]

    assert asyncio.run(known()) == [True, True, None, None]


def test_one_typed_call_without_the_loop_shows_the_images():
    """Strategy(route="direct"), and "auto" where they are few: each counts for what it takes of the window."""
    for route in ("direct", "auto"):
        lm = ScriptedLM([json.dumps({"answer": "dark"})])
        pred = RLM("page: Image, question -> answer", lm=lm, strategy=Strategy(route=route))(
            page=Image(DARK), question="?"
        )
        assert pred.answer == "dark"
        assert lm.requests[0].images == (Image(DARK).url,)
        assert "(image 1)" in lm.requests[0].messages[1].content
    lm = ScriptedLM([cell("SUBMIT(answer='loop')")])
    rlm = RLM("pages: list[Image] -> answer", lm=lm, strategy=Strategy(route="auto"))
    pred = rlm(pages=[Image(DARK)] * 6)
    assert pred.answer == "loop"
    assert "36,000 characters" not in pred.trajectory.route
    assert pred.trajectory.route.startswith("loop: the inputs are over")


def test_no_record_holds_the_data(tmp_path):
    """Trajectory, trace, page and journal say kind and size; a run that went on sends the same again."""
    big = Image(png(128, 512) + bytes(range(256)) * 500)
    trace, coded = tmp_path / "run.jsonl", base64.b64encode(big.data[5_000:8_000])[4:-4]
    replies = [cell("a = llm_query('look', images=[page])\nb = predict('page: Image -> shade', page=page)"),
               "grey", json.dumps({"shade": "grey"}), cell("SUBMIT(answer=a + b)")]  # fmt: skip
    lm = ScriptedLM(replies)
    pred = RLM("page: Image -> answer", lm=lm, trace=trace)(page=big)
    assert pred.answer == "greygrey"
    calls = pred.trajectory.iterations[0].sub_calls
    assert calls[0].prompt == f"look\n[{'image'} image/png, {len(big.data) / 1000:.3g} KB]"
    assert all("[image image/png, 1" in call.prompt for call in calls)
    html = pred.trajectory.to_html() if hasattr(pred.trajectory, "to_html") else pred.trajectory._repr_html_()
    assert coded not in trace.read_bytes() + html.encode() + repr(pred.trajectory).encode()
    assert Trajectory.load(trace) == pred.trajectory


def test_images_are_part_of_what_a_request_is_known_by(tmp_path):
    """A recording answers the same image only, and says what is different."""

    async def go():
        recorded = Recorded(ScriptedLM(["dark"]), tmp_path / "r.jsonl")
        request = Request((Message("user", "what?"),), images=(Image(DARK).url,))
        await recorded.complete(request)
        assert (await Replayed(tmp_path / "r.jsonl").complete(request)).text == "dark"
        with pytest.raises(ReplayMismatch, match="not: images"):
            await Replayed(tmp_path / "r.jsonl").complete(Request(request.messages, images=(Image(LIGHT).url,)))
        assert request.tokens == 2 + IMAGE_TOKENS
        return (tmp_path / "r.jsonl").read_text()

    assert "base64" not in asyncio.run(go())


def test_a_resumed_run_has_its_images_again(tmp_path):
    """They are inputs as others are; the replies fit."""
    trace = tmp_path / "run.jsonl"
    lm = ScriptedLM([cell("a = llm_query('look', images=[page])"), LMError("down")])
    options = {"trace": trace, "resumable": True, "sub_lm": ScriptedLM(["dark"])}
    with pytest.raises(LMError, match="down"):
        RLM("page: Image -> answer", lm=lm, **options)(page=Image(DARK))
    lm = ScriptedLM([cell("SUBMIT(answer=a)")])
    assert RLM.resume(trace, lm=lm, sub_lm=ScriptedLM([])).answer == "dark"


def test_pages_of_a_document_are_images(tmp_path):
    """read_document as an input declared list[Image]: drawn off the event loop; a page alone by its number."""
    library("pypdfium2")
    library("PIL.Image")
    found = read_document(pdf(tmp_path / "c.pdf", ["one", "two"]))
    page = found.pages[1].image(dpi=36)
    assert page.data.startswith(b"\x89PNG")
    assert struct.unpack(">II", page.data[16:24]) == (306, 396)
    assert [*found.images(dpi=36)][1] == page
    loop_thread, drawn_in = threading.get_ident(), []
    images = type(found).images
    try:
        type(found).images = lambda self, **how: drawn_in.append(threading.get_ident()) or images(self, **how)
        lm = ScriptedLM([cell("SUBMIT(answer=llm_query('read', images=pages))"), "one two"])

        async def go():
            return await RLM("pages: list[Image] -> answer", lm=lm).acall(pages=found)

        assert asyncio.run(go()).answer == "one two"
    finally:
        type(found).images = images
    assert len(lm.requests[1].images) == 2
    assert drawn_in
    assert drawn_in[0] != loop_thread
    with pytest.raises(InputError, match="only the pages of a PDF"):
        read_document(__file__).pages[0].image()


def test_the_command_line_takes_images(tmp_path, capsys, monkeypatch):
    """--page @scan.png; what is no image is told."""
    monkeypatch.setenv("DSZIG_RUNS_DIR", str(tmp_path / "runs"))
    (tmp_path / "scan.png").write_bytes(DARK)
    provider = Seeing("SUBMIT(answer=llm_query('x', images=[page]))")
    with ScriptedServer(provider) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-loopback")
        started = ["run", "page: Image -> answer", "-m", "direct:openai/x", "-q", "--page"]
        assert main([*started, f"@{tmp_path / 'scan.png'}"]) == 0
        assert capsys.readouterr().out == "dark\n"
        assert main([*started, f"@{__file__}"]) == 2
    assert "no PNG, JPEG, GIF or WebP" in capsys.readouterr().err


@pytest.mark.parametrize("environment", ["script", "interpreter"])
def test_where_no_image_can_be_held_that_is_said_before_any_call(environment):
    """An environment whose values are text or JSON refuses, naming the input."""
    lm = ScriptedLM([])
    given = InterpreterEnvironment(object) if environment == "interpreter" else environment
    with pytest.raises(InputError, match=rf"page.*environment=\"{environment}\""):
        RLM("page: Image -> answer", lm=lm, environment=given)(page=Image(DARK))
    assert not lm.requests


def test_what_an_image_is_made_of(tmp_path):
    """Bytes of a known kind, a path, a data URL, an address, what has a url; anything else is said."""
    (tmp_path / "p.png").write_bytes(DARK)

    class Foreign:
        url = Image(DARK).url

    for source in (DARK, bytearray(DARK), tmp_path / "p.png", str(tmp_path / "p.png"), Image(DARK).url, Foreign()):
        assert Image.of(source) == Image(DARK, "image/png")
    assert Image(b"RIFF1234WEBPVP8 ").media_type == "image/webp"
    assert Image(b"<svg/>", "image/svg+xml").url.startswith("data:image/svg+xml;base64,")
    for wrong, told in (
        (b"hello", "no PNG"),
        (tmp_path / "no.png", "No such file"),
        (tmp_path, "Is a directory"),
        ("data:image/png;base64,%%", "cannot be read"),
        (17, "not a int"),
    ):
        with pytest.raises(InputError, match=told):
            Image.of(wrong)
    for fields in (
        {},
        {"data": DARK, "address": "https://x"},
        {"address": "file:///etc/passwd"},
        {"data": b"x" * (MOST + 1)},
    ):
        with pytest.raises(InputError):
            Image(**fields)
    assert repr(Image(DARK)) == f"Image(image/png, {len(DARK)} bytes)"


class Found(BaseModel):
    page: Image


@dataclasses.dataclass
class Kept:
    place: Folder


@pytest.mark.parametrize("reader", ["submit", "reply", "closing reply"])
def test_what_code_or_a_model_says_is_no_path_of_this_process(tmp_path, reader, monkeypatch):
    """Inside a class of the caller's too: an image is the bytes themselves, a folder cannot be given; no file is opened."""
    (tmp_path / "secret.png").write_bytes(DARK)
    monkeypatch.setattr(Path, "open", lambda *_, **__: pytest.fail("a file was opened"))
    signature = Signature.parse("q -> found: Found, kept: Kept", types={"Found": Found, "Kept": Kept})
    contract = compile_contract(signature, {"q": "?"})
    said = {"found": {"page": str(tmp_path / "secret.png")}, "kept": {"place": str(tmp_path)}}
    told = "page: pass an image that is an input, or the bytes.*place: no folder can be given here"
    if reader == "submit":
        with pytest.raises(SubmissionRefused, match=told):
            contract.validate([], said)
        assert contract.extracted({"found": {"page": DARK}})[0]["found"].page.data == DARK
    elif reader == "reply":
        with pytest.raises(BadReply, match=told):
            read(signature, json.dumps(said))
    else:
        assert contract.extracted(said)[0] == {}


@pytest.mark.parametrize("call", ["predict", "rlm_query"])
@pytest.mark.parametrize(
    ("declared", "given"),
    [
        ("Image | str", "PATH"),
        ("list[Image | str]", "[PATH]"),
        ("Image | dict[str, str]", "{'address': 'http://elsewhere/?secret'}"),
        ("dict[str, Image | Any] | None", "{'a': PATH}"),
    ],
)
def test_a_sub_call_takes_no_image_that_may_be_something_else(tmp_path, monkeypatch, call, declared, given):
    """As something else it would pass, and be an image of this process's files or of any address in the child run."""
    path = tmp_path / "secret.png"
    path.write_bytes(DARK)
    monkeypatch.setattr(Path, "open", lambda *_, **__: pytest.fail("a file was opened"))
    code = f"PATH = {str(path)!r}\nprint({call}('x: {declared} -> y', x={given}))"
    lm, sub = ScriptedLM([cell(code)]), ScriptedLM([cell("SUBMIT(y=str(x))")], repeat_last=True)
    pred = RLM("q -> a", lm=lm, sub_lm=sub, max_iters=1, budget=Budget(max_depth=1))(q="?")
    assert "declare Image, Image | None, or list[Image]" in pred.trajectory.iterations[0].execution.error
    assert sub.requests == []


def test_a_file_that_is_too_large_for_an_image_is_not_read_to_its_end():
    """/dev/zero has none."""
    with pytest.raises(InputError, match="at most"):
        Image.of("/dev/zero")


def test_images_are_inputs_only():
    """Of a run and of a sub-call; code writes a File."""
    with pytest.raises(SignatureError, match="declare File"):
        RLM("text -> picture: Image", lm=ScriptedLM([]))(text="t")
    code = "try: predict('text -> picture: Image', text='x')\nexcept Exception as e: SUBMIT(answer=str(e))"
    assert "takes images and gives none" in RLM("t -> answer", lm=ScriptedLM([cell(code)]))(t="t").answer
    with pytest.raises(InputError, match="declared Image"):
        RLM("page: Image -> answer", lm=ScriptedLM([]))(page=17)


@given(st.binary(min_size=1, max_size=3_000))
def test_data_urls_keep_every_byte(data):
    """And are told of by kind and size alone."""
    image = Image(data, "image/png")
    assert Image.of(image.url) == image
    assert about(image.url).startswith("image/png, ")


@given(st.recursive(st.none() | st.text() | st.integers() | st.binary(max_size=20),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["data", "address", "media_type", "x"]), inner)))  # fmt: skip
def test_whatever_code_hands_over_is_an_image_of_bytes_or_refused(value):
    """By a ValueError, and never read from a path or sent to an address."""
    try:
        image = coerce(Image, value, {CODE: {}})
    except ValueError:
        return
    assert image.data
    assert not image.address
