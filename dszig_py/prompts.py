"""Every word a model reads, in one place: constants, and pure functions that fill them in.

What the texts say comes from the paper's findings (arXiv:2512.24601, section on emergent strategies), from what DSPy's own
RLM says, and from what models are seen to get wrong: one sub-call a line instead of packed ones, answers retyped from
memory, sub-calls on inputs that fit a screen, an empty search taken for an answer.

All of it is about Python: an environment with another language brings its own instructions and forms of calls.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dszig_py.contract import Contract
from dszig_py.environments.base import Execution
from dszig_py.images import asked_for
from dszig_py.lm.base import Message, Request
from dszig_py.outputs import are_files
from dszig_py.signature import Field, Signature
from dszig_py.text import clean, truncate
from dszig_py.trajectory import Action, Iteration
from dszig_py.usage import Remaining

__all__ = [
    "CALLABLES",
    "CHILD_OF_PROMPT",
    "CITE",
    "INSTRUCTIONS",
    "READING",
    "again",
    "budget",
    "contract_notes",
    "decision",
    "extraction",
    "history",
    "observation",
    "remaining",
    "typed_again",
    "typed_request",
]

INSTRUCTIONS = {
    "default": """\
You solve a task by writing Python in a live REPL. The inputs are variables there and may be far too big to read: you see \
only their names, types, sizes and previews. Reply with a sentence or two of reasoning and one ```python block. It is run, \
you are shown what it printed, and you go on from there; variables, functions and imports stay.

How to work:
- Look first. Print types, lengths and samples (start, middle, end) before deciding how the data is built. Never print a \
big variable whole.
- Find with code, understand with models. Search, slice, parse and count in Python; use sub-calls for what needs reading: \
meaning, classification, summary, judgement. A count or a lookup that code can do exactly needs no model.
- A sub-call sees only the prompt you write: put the question, the instructions and the text itself into it. Pack many items \
into one prompt, some 10,000 to 100,000 characters, rather than one call a line, and send all prompts at once with the \
batched form. Ask for answers in a form your code can parse.
- Small inputs need no sub-calls: print them and read.
- Keep results in variables and build the outputs from variables, not from text you retype.
- Check before you finish: if a result is empty, odd or contradicts a sample, look again another way. If code fails, read \
the traceback and mend it.
- When you have the answer, call SUBMIT with every output, in the REPL, once. Nothing you write outside the code block \
counts as an answer.""",
    "cost_aware": """\
You solve a task by writing Python in a live REPL. The inputs are variables there and may be far too big to read: you see \
only their names, types, sizes and previews. Reply with a sentence or two of reasoning and one ```python block. It is run, \
you are shown what it printed, and you go on from there; variables, functions and imports stay.

Every sub-call and every iteration costs money. How to work:
- Do in one block what can be done in one: look at the inputs' form and search them in the same cell. Never print a big \
variable whole.
- Narrow down with code first: filter, search, count, remove duplicates. Only what is left and needs reading (meaning, \
classification, judgement) goes to a model, and only the part that matters of it.
- Before a batch, print how many prompts and characters it has, and see budget(). Pack as much into one prompt as it can \
hold, some 100,000 characters, and ask for short answers in a form your code can parse. Try one prompt on a sample before \
you send the rest.
- Keep the answers in variables: never pay for the same question twice. A failed item of a batch is asked again alone.
- Keep results in variables and build the outputs from variables, not from text you retype.
- Check the result against a sample with code, then call SUBMIT with every output, in the REPL, once. Nothing you write \
outside the code block counts as an answer.""",
    "small_context": """\
You solve a task by writing Python in a live REPL. The inputs are variables there, too big to read at once. Reply with one \
sentence and one short ```python block. It is run and you see what it printed. Variables stay.

Rules:
- Print little: at most 1,500 characters at a time, never a whole variable.
- First print the type, the length and a short sample of each input.
- Search, split and count with Python. A sub-call sees only its prompt: put the question and the text into it, at most \
8,000 characters, and send many at once with the batched form.
- Keep results in variables. One small step in each reply.
- If code fails, read the error and mend it.
- When you have the answer, call SUBMIT(...) with every output in the code block.""",
}

CALLABLES: dict[str, tuple[str, str]] = {
    "llm_query": (
        "llm_query(prompt: str) -> str",
        "asks a model; it sees this prompt and nothing else",
    ),
    "llm_query_batched": (
        "llm_query_batched(prompts: list[str]) -> list[str]",
        "the same for many prompts at once, in order; a failed one comes back as an Exception object",
    ),
    "predict": (
        "predict('text: str, ... -> label: str, ...', **inputs)",
        "one typed model call; a single output comes as its value, several as a dict; classes you define may be types",
    ),
    "predict_batched": (
        "predict_batched(signature, [inputs_dict, ...]) -> list",
        "the same for many inputs at once",
    ),
    "rlm_query": (
        "rlm_query('notes: str, question: str -> answer: str', **inputs), or rlm_query(prompt) -> str",
        "a whole run like yours, with a REPL of its own, for a part that needs work of its own",
    ),
    "rlm_query_batched": ("rlm_query_batched(signature, [inputs_dict, ...]), or (prompts) -> list", "many at once"),
    "budget": ("budget() -> dict", "what is left of this run's limits"),
    "SHOW_VARS": ("SHOW_VARS() -> dict", "names and short values of all variables"),
}

READING: dict[str, tuple[str, str]] = {
    "peek": ("peek(text, n=1000) -> str", "the first n characters"),
    "tail": ("tail(text, n=1000) -> str", "the last n characters"),
    "chunk": ("chunk(text, size=50000, overlap=0) -> list[str]", "pieces of a text, cut at line ends where it can be"),
    "search": (
        "search(text_or_texts, pattern, context=200, limit=20) -> list[dict]",
        "matches of a regular expression with start, end, match and the text around",
    ),
}

CITE: dict[str, tuple[str, str]] = {
    "cite": (
        "cite(variable, start, end) or cite(text) -> Evidence",
        "a span of an input, or an item (docs[3], folder['a.txt']), as sliced, for SUBMIT to check; cite(text): its first place",
    ),
}

MODEL_CHOICE = "llm_query, predict and their batched forms take lm=NAME with NAME one of: {names}."
SCRATCH = (
    "Files can be written beneath `scratch`, the path of a folder, and nowhere else: "
    'open(f"{{scratch}}/{name}.txt", "w"). Close a file before you SUBMIT its path.'
)
IMAGES = (
    "You see no images. Sub-calls do: llm_query(prompt, images=[...]), predict('page: Image, question -> answer', ...), for "
    "many predict_batched. An Image has .data (bytes) and .media_type; bytes of a PNG or JPEG of your own can be sent as well."
)
MOST_CODE = 20_000  # characters of the newest code that later prompts show in any case
NOTHING_SHOWN = "(nothing was printed; print what you want to see)"
SUBMITTED = "(submitted)"
LAST = "This is the last iteration: SUBMIT what you have now."
EARLIER = "(the first {count} iterations)"
LEFT_OUT = "(left out here; their variables are still in the REPL: SHOW_VARS())"

KEPT = "This REPL has served earlier calls; what they made may be used. The latest ones:"
COMPACTED = "(earlier iterations, summarized)"
EARLIER_VARIABLE = "earlier_iterations"
SUMMARIZE = """\
Your history is getting long and will be replaced by a summary that you write now. Do not write code. Say, in short lines: \
what the task wants; how the data turned out to be built; what was done and what it showed, with the names of the variables \
and functions that hold results; what failed and why; what is still to do. Keep every fact and number the answer needs."""

CHILD_OF_PROMPT = Signature((Field("prompt", str, "what to do"),), (Field("answer", str),))
"""What rlm_query(prompt) runs: the prompt is a variable of the child, shown whole where it is not too long."""

TYPED = """\
Fill the outputs from the inputs. Reply with one JSON object that follows this JSON schema, and nothing else:
{schema}"""
AGAIN = "An earlier reply did not fit: {error}. Mind that."

EXTRACTION = """\
The work on this task has ended without a SUBMIT. Below are the task's contract and what was done. Give the outputs as far \
as what was found supports them; use null for what cannot be known. Reply with one JSON object holding exactly these keys, \
and nothing else: {names}."""


def contract_notes(models: Sequence[str], signature: Signature | None = None) -> list[str]:
    """Lines of the contract that are neither variable nor callable."""
    told = [MODEL_CHOICE.format(names=", ".join(repr(m) for m in models))] if models else []
    written = [f.name for f in signature.outputs if are_files(f.type)] if signature is not None else []
    shown = signature is not None and any(asked_for(f.type) for f in signature.inputs)
    return [
        *told,
        *([SCRATCH.format(name=written[0])] if written else []),
        *([IMAGES] if shown else []),
    ]


def session_notes(calls: Sequence[tuple[str, str]], variables: Mapping[str, str]) -> list[str]:
    """What a call is told of the calls before it in the same REPL: their inputs and outputs, and what is still there."""
    if not calls:
        return []
    lines = [KEPT, *(f"  {inputs} -> {outputs}" for inputs, outputs in calls)]
    held = ", ".join(f"{name} = {truncate(text, 80)}" for name, text in list(variables.items())[:40])
    return ["\n".join([*lines, *([f"  Still in the REPL: {held}"] if held else [])])]


def observation(action: Action, execution: Execution | None, limit: int) -> str:
    """What the model is shown of one iteration: printed text, value, traceback, cut to ``limit`` characters."""
    parts: list[str] = []
    if execution is not None:
        if execution.lost:
            parts.append(execution.lost)
        if execution.stdout:
            parts.append(execution.stdout.rstrip("\n"))
        if execution.value is not None:
            parts.append(f"=> {execution.value}")
        if execution.error:
            parts.append(execution.error)
        if not parts:
            parts.append(SUBMITTED if execution.submission is not None else NOTHING_SHOWN)
    if action.problem:
        parts.append(action.problem)
    return clean(truncate("\n".join(parts), limit))


def remaining(left: Remaining, *, refused: str = "") -> str:
    """What the budget still allows: counts exactly, time and money only at 50, 25 and 10 % left."""
    parts: list[str] = []
    if left.iters is not None:
        parts.append(f"{left.iters} iteration{'s' * (left.iters != 1)} left")
    if left.llm_calls is not None:
        parts.append(f"{left.llm_calls} sub-call{'s' * (left.llm_calls != 1)} left")
    for name, share in (("time", left.seconds_share), ("tokens", left.tokens_share), ("money", left.cost_share)):
        step = next((s for s in (10, 25, 50) if share * 100 <= s), None)
        if step is not None:
            parts.append(f"under {step} % of the {name} left")
    text = f"[{', '.join(parts)}]" if parts else ""
    if refused or left.iters == 1:
        return f"{text} {LAST}".strip()
    return f"{text} Submit what you have." if left.iters == 2 else text


def decision(
    instructions: str,
    contract: Contract,
    iterations: Sequence[Iteration],
    left: str,
    max_history_chars: int,
    summary: str = "",
) -> Request:
    """The prompt of one decision. Its head is constant during a run, so that provider caches hit."""
    task = contract.signature.instructions
    first = f"{f'Task: {task}{chr(10)}{chr(10)}' if task else ''}{contract.text}"
    messages = [Message("system", instructions), Message("user", first)]
    told = history(iterations, max_history_chars, summary, contract.language.label)
    return Request((*messages, *told), remaining=left)


def history(iterations: Sequence[Iteration], max_chars: int, summary: str = "", label: str = "python") -> list[Message]:
    """Earlier iterations as a conversation of at most about ``max_chars`` characters and the newest one, however many.

    The newest iterations stand whole, older ones shortened, the oldest are only counted. Which is which changes in
    steps: when the whole ones pass half of ``max_chars``, all but the newest quarter are shortened; when the shortened
    ones then pass an eighth, all but the newest sixteenth are left out. Between two steps each conversation is a prefix
    of the next one, so that provider caches hit; and as none grows for ever, a run's prompts add up linearly. The
    newest observation is always whole, and its code unless that is beyond reason. ``summary`` stands for what came before ``iterations``, ``label`` at the fences of code.
    """
    short = max(200, max_chars // 200)
    told: list[tuple[Message, Message]] = []  # as it stands now, whole or shortened
    left_out = first_whole = whole_chars = short_chars = 0
    for number, iteration in enumerate(iterations):
        told.append(_whole(iteration, max(MOST_CODE, max_chars // 2), label))
        whole_chars += _chars(told[number])
        if whole_chars <= max_chars // 2:
            continue
        while first_whole < number and whole_chars > max_chars // 4:
            whole_chars -= _chars(told[first_whole])
            told[first_whole] = _shortened(iterations[first_whole], short, label)
            short_chars += _chars(told[first_whole])
            first_whole += 1
        if short_chars > max_chars // 8:
            while short_chars > max_chars // 16:
                short_chars -= _chars(told[left_out])
                left_out += 1
    messages = [message for pair in told[left_out:] for message in pair]
    if left_out:
        messages[:0] = [Message("assistant", EARLIER.format(count=left_out)), Message("user", LEFT_OUT)]
    if summary:
        messages[:0] = [Message("assistant", COMPACTED), Message("user", summary)]
    return messages


def _chars(messages: Sequence[Message]) -> int:
    return sum(len(message.content) for message in messages)


def _whole(iteration: Iteration, limit: int, label: str) -> tuple[Message, Message]:
    """An iteration as it was, but for code of over ``limit`` characters: a model lost in repetition writes megabytes, which
    every model then refuses to read.
    """
    action = iteration.action
    if len(action.code) > limit:
        action = replace(action, cells=(truncate(action.code, limit),))
    return Message("assistant", _said(action, 4_000, label)), Message("user", iteration.observation)


def _shortened(iteration: Iteration, limit: int, label: str) -> tuple[Message, Message]:
    """An iteration with its texts cut: code to four times ``limit``, as later code may call what it defines."""
    action = iteration.action
    cut = replace(action, cells=(truncate(action.code, 4 * limit),) if action.cells else ())
    return Message("assistant", _said(cut, limit, label)), Message("user", truncate(iteration.observation, limit))


def _said(action: Action, reasoning_chars: int, label: str) -> str:
    reasoning = truncate(action.reasoning, reasoning_chars)
    cells = [f"```{label}\n{cell}\n```" for cell in action.cells]
    return "\n\n".join([*([reasoning] if reasoning else []), *cells]) or "(empty reply)"


def typed_request(
    signature: Signature, inputs: Mapping[str, str], schema: Mapping[str, Any], images: tuple[str, ...] = ()
) -> Request:
    """The prompt of one typed sub-call; ``inputs`` are the values as text, ``images`` what it names by number."""
    task = [signature.instructions] if signature.instructions else []
    described = [f"{f.name}: {f.desc}" for f in (*signature.inputs, *signature.outputs) if f.desc]
    told = TYPED.format(schema=json.dumps(schema, ensure_ascii=False))
    given = "\n\n".join(f"{name}:\n{text}" for name, text in inputs.items())
    system = "\n".join([*task, *described, told])
    return Request((Message("system", system), Message("user", given or "(no inputs)")), schema=schema, images=images)


def typed_again(request: Request, error: str) -> Request:
    """The same, after a reply that did not fit."""
    first, *rest = request.messages
    told = Message(first.role, f"{first.content}\n{again(error)}")
    return replace(request, messages=(told, *rest))


def again(error: str) -> str:
    """What was wrong with an earlier reply, in words for the next one."""
    return AGAIN.format(error=truncate(error, 1_000))


def budget(left: Remaining) -> dict[str, Any]:
    """The limits as the REPL shows them; None = not limited."""
    return {
        "iterations": left.iters,
        "llm_calls": left.llm_calls,
        "tokens": left.tokens,
        "cost": left.cost,
        "seconds": left.seconds,
        "depth": left.depth,
    }


def summary(request: Request) -> Request:
    """The prompt of a compaction: the conversation as it stands, so that provider caches hit, and what is asked of it."""
    *before, last = request.messages
    if last.role != "user":
        return replace(request, messages=(*request.messages, Message("user", SUMMARIZE)), remaining="")
    return replace(request, messages=(*before, Message("user", f"{last.content}\n\n{SUMMARIZE}")), remaining="")


def compacted(summary: str, count: int, variable: str) -> str:
    """A summary as later prompts show it."""
    whole = f" They are whole in the variable {variable}, a list of dicts." if variable else ""
    return f"Summary of the first {count} iterations.{whole} Variables and functions are still in the REPL.\n{summary}"


# What was printed begins no part of its own.
_ROLE, _QUOTED = re.compile(r"^(?=\[(?:assistant|user)\][ \t]*$)", re.M), " "


def extraction(
    contract: Contract, iterations: Sequence[Iteration], max_history_chars: int, summary: str = ""
) -> Request:
    """The prompt of the closing call, which reads the history and fills the outputs."""
    names = ", ".join(f.name for f in contract.signature.outputs)
    told = history(iterations, max_history_chars, summary, contract.language.label)
    done = "\n\n".join(f"[{m.role}]\n{_ROLE.sub(_QUOTED, m.content)}" for m in told)
    task = contract.signature.instructions
    parts = [EXTRACTION.format(names=names), f"Task: {task}" if task else "", contract.text, f"What was done:\n{done}"]
    return Request((Message("user", "\n\n".join(part for part in parts if part)),))
