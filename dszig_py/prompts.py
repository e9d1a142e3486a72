"""Every word a model reads, in one place: constants, and pure functions that fill them in.

What the texts say comes from the paper's findings (arXiv:2512.24601, section on emergent strategies), from what DSPy's own
RLM says, and from what models are seen to get wrong: one sub-call a line instead of packed ones, answers retyped from
memory, sub-calls on inputs that fit a screen, an empty search taken for an answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dszig_py.contract import Contract
from dszig_py.environments.base import Execution
from dszig_py.lm.base import Message, Request
from dszig_py.signature import Field, Signature
from dszig_py.text import clean, truncate
from dszig_py.trajectory import Action, Iteration
from dszig_py.usage import Remaining

__all__ = [
    "CALLABLES",
    "CHILD_OF_PROMPT",
    "INSTRUCTIONS",
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

MODEL_CHOICE = "llm_query, predict and their batched forms take lm=NAME with NAME one of: {names}."
NOTHING_SHOWN = "(nothing was printed; print what you want to see)"
SUBMITTED = "(submitted)"
LAST = "This is the last iteration: SUBMIT what you have now."
SHORTENED = "[shortened: {chars:,} characters then]"

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


def contract_notes(models: Sequence[str]) -> list[str]:
    """Lines of the contract that are neither variable nor callable."""
    return [MODEL_CHOICE.format(names=", ".join(repr(m) for m in models))] if models else []


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
    instructions: str, contract: Contract, iterations: Sequence[Iteration], left: str, max_history_chars: int
) -> Request:
    """The prompt of one decision. Its head is constant during a run, so that provider caches hit."""
    task = contract.signature.instructions
    first = f"{f'Task: {task}{chr(10)}{chr(10)}' if task else ''}{contract.text}"
    messages = [Message("system", instructions), Message("user", first)]
    return Request((*messages, *history(iterations, max_history_chars)), remaining=left)


def history(iterations: Sequence[Iteration], max_chars: int) -> list[Message]:
    """Earlier iterations as a conversation, older observations shortened so that the whole stays under ``max_chars``.

    Shortening goes in steps: whenever the full observations pass half the room, all but the newest quarter are cut to a
    few hundred characters. Between two steps every prompt is a prefix of the next one.
    """
    full_room, short = max_chars // 2, max(200, max_chars // 100)
    shortened, full = 0, 0
    for number, iteration in enumerate(iterations):
        full += len(iteration.observation)
        if full > full_room:
            kept = 0
            first_kept = number
            while first_kept > shortened and kept + len(iterations[first_kept - 1].observation) <= full_room // 2:
                first_kept -= 1
                kept += len(iterations[first_kept].observation)
            shortened, full = first_kept, sum(len(i.observation) for i in iterations[first_kept : number + 1])
    messages: list[Message] = []
    for number, iteration in enumerate(iterations):
        told = iteration.observation
        if number < shortened and len(told) > short:
            told = f"{truncate(told, short)}\n{SHORTENED.format(chars=len(told))}"
        messages.append(Message("assistant", _said(iteration.action, short if number < shortened else 4_000)))
        messages.append(Message("user", told))
    return messages


def _said(action: Action, reasoning_chars: int) -> str:
    reasoning = truncate(action.reasoning, reasoning_chars)
    cells = [f"```python\n{cell}\n```" for cell in action.cells]
    return "\n\n".join([*([reasoning] if reasoning else []), *cells]) or "(empty reply)"


def typed_request(signature: Signature, inputs: Mapping[str, str], schema: Mapping[str, Any]) -> Request:
    """The prompt of one typed sub-call; ``inputs`` are the values as text."""
    task = [signature.instructions] if signature.instructions else []
    described = [f"{f.name}: {f.desc}" for f in (*signature.inputs, *signature.outputs) if f.desc]
    told = TYPED.format(schema=json.dumps(schema, ensure_ascii=False))
    given = "\n\n".join(f"{name}:\n{text}" for name, text in inputs.items())
    system = "\n".join([*task, *described, told])
    return Request((Message("system", system), Message("user", given or "(no inputs)")), schema=schema)


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


def extraction(contract: Contract, iterations: Sequence[Iteration], max_history_chars: int) -> Request:
    """The prompt of the closing call, which reads the history and fills the outputs."""
    names = ", ".join(f.name for f in contract.signature.outputs)
    done = "\n\n".join(f"[{m.role}]\n{m.content}" for m in history(iterations, max_history_chars))
    task = contract.signature.instructions
    parts = [EXTRACTION.format(names=names), f"Task: {task}" if task else "", contract.text, f"What was done:\n{done}"]
    return Request((Message("user", "\n\n".join(part for part in parts if part)),))
