"""What the scripted model says. The model's name tells all of it: ``DIALECT.SCRIPT.LATENCY_MS[.FAULT]``.

Dialects: ``ours``, ``dspy`` (and everything on its adapters), ``predict`` (predict-rlm), ``rlm`` (alexzhang13). Scripts:
``turns5`` (four idle cells, then the answer), ``find10`` (the same, each cell asking for its length), ``grow20`` (each cell
prints 5,000 characters), ``fan1000`` (one cell that asks a thousand sub-calls), ``tree8`` (eight children), ``sub`` (a
sub-call's reply). A fault is one of tests/scripted_server.py, or a status such as 429: every tenth request meets it.
"""

from __future__ import annotations

import itertools
import json
import re

from scripted_server import Answer

SIZE = "print(len({name}))"
PRINT = "print('0123456789' * 500)"


class Scripts:
    """The handler of a server: one reply a request, by the model's name and how far its conversation is."""

    def __init__(self):
        self._count = itertools.count(1)

    def __call__(self, body):
        dialect, script, latency, *fault = body["model"].split(".")
        met = fault[0] if fault and next(self._count) % 10 == 0 else ""
        if met.isdigit():
            return Answer(status=int(met), headers={"retry-after-ms": "50"})
        text = reply(dialect, script, body["messages"])
        return Answer(text, latency=float(latency) / 1000, fault=met or None)


def reply(dialect, script, messages):
    if script == "sub":
        return "ok"
    kind, count = re.fullmatch(r"([a-z]+)(\d+)", script).groups()
    name = "context" if dialect == "rlm" else "text"
    finish = "answer['content'] = '1'; answer['ready'] = True" if dialect == "rlm" else "SUBMIT(answer='1')"
    if kind == "fan":
        return written(dialect, f"r = llm_query_batched(['q'] * {count})\nassert len(r) == {count}\n{finish}")
    if kind == "tree":
        return written(dialect, f"r = rlm_query_batched(['p'] * {count})\nassert len(r) == {count}\n{finish}")
    cell = {"turns": "x = 1", "find": SIZE.format(name=name), "grow": PRINT}[kind]
    return written(dialect, cell if turns(dialect, messages) < int(count) - 1 else finish)


def turns(dialect, messages):
    """Decisions before this one, as each prompt shows them."""
    if dialect in ("dspy", "predict"):
        return len(re.findall(r"^=== Step \d+ ===", str(messages[-1]["content"]), re.M))
    mark = "```repl" if dialect == "rlm" else ""
    return sum(m["role"] == "assistant" and mark in str(m["content"]) for m in messages)


def written(dialect, code):
    if dialect == "ours":
        return f"```python\n{code}\n```"
    if dialect == "rlm":
        return f"```repl\n{code}\n```"
    if dialect == "predict":
        return json.dumps({"plan": "go on", "code": f"```python\n{code}\n```"})
    return f"[[ ## reasoning ## ]]\ngo on\n\n[[ ## code ## ]]\n```python\n{code}\n```\n\n[[ ## completed ## ]]"
