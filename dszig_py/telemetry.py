"""OpenTelemetry spans of a run, by the semantic conventions for generative AI.

::

    invoke_agent dszig                 the run
    ├─ chat gpt-5                      a decision (or the extraction) of the root
    └─ execute_tool python             an iteration's code
       ├─ chat gpt-5-mini              llm_query, predict: a model call from inside code (of a direct route: of the run)
       ├─ execute_tool fetch_page      a tool of the caller's
       └─ execute_tool rlm_query       a child run asked for
          └─ invoke_agent dszig        the child run, its own spans below

Spans are made where the program has configured a tracer provider, below the span that is current where the run is
called; a program that has not is not charged for an import. Only the API package is used: exporters, sampling and
resources are the program's. While a decision, a sub-call or a tool goes on its span is current, so that what other
instrumentations see (HTTP requests, a tool's own spans) hangs below it.

What models read and write is left out, unless ``OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT`` asks for it
("true", "span_only" or "span_and_event", the values in use); then previews go in, secrets replaced as in a trace.
Reaching a limit is an outcome and no error; what the provider, the environment or the caller's code fails by is one.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dszig_py import semconv
from dszig_py.errors import InputError
from dszig_py.events import (
    ActionChosen,
    Event,
    IterationFinished,
    IterationStarted,
    RunFinished,
    RunStarted,
    SubCallFinished,
    SubCallStarted,
)
from dszig_py.previews import brief
from dszig_py.redaction import Redactor
from dszig_py.text import truncate
from dszig_py.usage import Usage

if TYPE_CHECKING:
    from contextvars import Token

    from opentelemetry.context import Context
    from opentelemetry.trace import Span

__all__ = ["Telemetry", "telemetry"]

CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
CONTENT_CHARS = 4_000  # of one text, where content is asked for

_MODEL_CALLS = ("llm_query", "predict", "direct")


def telemetry(asked: bool | None, secrets: Iterable[str] = ()) -> Telemetry | None:
    """The subscriber of one run, made in the context it is called in; ``None`` where there are to be no spans.

    ``asked``: ``None`` = where the program has configured a tracer provider, which it cannot have without importing
    OpenTelemetry; ``True`` = always. Raises :class:`InputError` for ``True`` where OpenTelemetry is not installed.
    """
    if asked is False or (asked is None and not _configured()):
        return None
    if importlib.util.find_spec("opentelemetry") is None:
        raise InputError("telemetry=True needs OpenTelemetry: pip install 'dszig-py[otel]'")
    return Telemetry(secrets)


def _configured() -> bool:
    api: Any = sys.modules.get("opentelemetry.trace")
    if api is None:
        return False
    return not isinstance(api.get_tracer_provider(), (api.ProxyTracerProvider, api.NoOpTracerProvider))


@dataclass
class _Open:
    """A span under way. ``token`` undoes its being the current one."""

    span: Span
    token: Token[Context] | None = None


class Telemetry:
    """A subscriber that makes the spans of one root run and its children. Called on the run's loop, in its tasks."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        from opentelemetry import context, trace

        self._context, self._trace = context, trace
        self._tracer = trace.get_tracer("dszig_py", schema_url=f"https://opentelemetry.io/schemas/{semconv.VERSION}")
        self._caller = context.get_current()
        self._content = os.environ.get(CAPTURE, "").lower() in ("true", "1", "span_only", "span_and_event")
        self._redactor = Redactor(secrets)
        self._models: dict[str, str] = {}  # run -> model that decides
        self._runs: dict[str, _Open] = {}
        self._decisions: dict[str, _Open] = {}
        self._cells: dict[str, _Open] = {}
        self._calls: dict[str, _Open] = {}

    def __call__(self, event: Event) -> None:
        handle = _HANDLERS.get(type(event))
        if handle is not None:
            handle(self, event)

    def _run_started(self, event: RunStarted) -> None:
        begun = event.trajectory.begun if event.trajectory is not None else time.time()
        self._run(event.run, event.depth, event.parent, event.signature, event.model, begun)

    def _run(self, run: str, depth: int, parent: str, signature: str, model: str, begun: float) -> None:
        above = self._calls.get(parent)
        told = {
            "operation": "invoke_agent",
            "agent": "dszig",
            "agent_id": run,
            "signature": truncate(signature, 500),
            "depth": depth,
            **semconv.model(model),
        }
        self._models[run] = model
        self._runs[run] = self._begin("invoke_agent dszig", above, told, begun=begun, current=True)

    def _decision_started(self, event: IterationStarted) -> None:
        self._decisions[event.run] = self._chat(event.run, {"iteration": event.index}, current=True)

    def _chat(self, run: str, more: dict[str, Any], **options: Any) -> _Open:
        told = {"operation": "chat", **semconv.model(self._models.get(run, "")), **more}
        return self._begin(semconv.chat(told), self._runs.get(run), told, kind=self._trace.SpanKind.CLIENT, **options)

    def _past(self, run: str, usage: Usage, seconds: float, ended: float, reply: str, error: str = "") -> None:
        """A call of the deciding model that is told of only when it is over. ``ended``: Unix time, nearly."""
        opened = self._chat(run, {}, begun=ended - seconds)
        told = {**semconv.spent(usage), **self._messages("output_messages", "assistant", reply)}
        self._end(opened, told, error=error, ended=ended)

    def _decided(self, event: ActionChosen) -> None:
        opened = self._decisions.pop(event.run, None)
        made = event.compaction
        if made is not None:  # before the decision
            self._past(event.run, made.usage, made.seconds, time.time() - event.seconds, made.summary)
        if opened is not None:
            said = [event.action.reasoning, *event.action.cells]
            self._end(opened, {**semconv.spent(event.usage), **self._messages("output_messages", "assistant", *said)})
        if not event.action.cells:  # nothing is run: a reply without code, or a route that needs none
            return
        told = {"operation": "execute_tool", "tool": "python", "tool_type": "function", "iteration": event.index}
        told |= self._texts(arguments=event.action.code)
        self._cells[event.run] = self._begin("execute_tool python", self._runs.get(event.run), told)

    def _executed(self, event: IterationFinished) -> None:
        opened = self._cells.pop(event.run, None)
        if opened is None:
            return
        done = event.iteration.execution
        # The name of the exception alone: its message may quote the data.
        error = (done.error.rstrip().rpartition("\n")[2].partition(":")[0] or "error") if done.error else ""
        error = "worker_lost" if done.lost else error
        self._end(opened, self._texts(result=event.iteration.observation), error=semconv.error_type(error))

    def _call_started(self, event: SubCallStarted) -> None:
        above = self._cells.get(event.run) or self._runs.get(event.run)
        told: dict[str, Any] = {"kind": event.kind, "batch": event.batch or None}
        kind = self._trace.SpanKind.INTERNAL
        if event.kind in _MODEL_CALLS:
            told["operation"], name, kind = "chat", "chat", self._trace.SpanKind.CLIENT
        else:
            told |= {"operation": "execute_tool", "tool_type": "function", "call_id": event.id}
            name = "execute_tool"
        self._calls[event.id] = self._begin(name, above, told, kind=kind, current=True)

    def _call_finished(self, event: SubCallFinished) -> None:
        call = event.sub_call
        opened = self._calls.pop(call.id, None)
        if opened is None:
            return
        told: dict[str, Any] = {"index": call.index if call.batch else None, "cached": call.cached or None}
        if call.kind in _MODEL_CALLS:
            told |= {**semconv.model(call.model), **semconv.spent(call.usage)}
            told |= self._messages("input_messages", "user", call.prompt)
            told |= self._messages("output_messages", "assistant", call.reply)
            opened.span.update_name(semconv.chat(told))
        else:
            told["tool"] = call.prompt.partition("(")[0] if call.kind == "tool" else call.kind
            told |= self._texts(arguments=call.prompt, result=call.reply)
            opened.span.update_name(f"execute_tool {told['tool']}")
        error = semconv.error_type(call.error)
        # What a provider said; other failures may quote what the model wrote.
        provider = call.kind != "tool" and call.error.startswith(f"{call.kind} failed: ")
        self._end(opened, told, error=error, described=call.error if provider else "")

    def _run_finished(self, event: RunFinished) -> None:
        run = event.prediction.trajectory
        if run.id not in self._runs:  # it ended before its session was open
            self._run(run.id, event.depth, event.parent, run.signature, run.model, run.begun)
        closing = run.extraction
        if closing is not None:
            failure = "extraction" if closing.error else ""
            self._past(run.id, closing.usage, closing.seconds, time.time(), closing.reply, failure)
        why = event.prediction.termination
        failed = why.kind in ("error", "cancelled")
        for left in (self._decisions.pop(run.id, None), self._cells.pop(run.id, None)):
            if left is not None:
                self._end(left, {}, error=why.cause if why.kind == "error" else why.kind)
        told: dict[str, Any] = {"termination": why.kind, "cause": why.cause, "iterations": len(run.iterations)}
        told |= {"calls": run.usage.calls, "cost": run.usage.cost}
        told |= {"run_input_tokens": run.usage.input_tokens, "run_output_tokens": run.usage.output_tokens}
        told |= self._messages("output_messages", "assistant", brief(dict(run.outputs), CONTENT_CHARS))
        described = why.detail if why.cause in ("provider", "environment") else ""
        error = (why.cause if why.kind == "error" else why.kind) if failed else ""
        self._end(self._runs.pop(run.id), told, error=error, described=described)

    def _begin(
        self,
        name: str,
        above: _Open | None,
        told: Mapping[str, Any],
        *,
        kind: Any = None,
        begun: float | None = None,
        current: bool = False,
    ) -> _Open:
        parent = self._caller if above is None else self._trace.set_span_in_context(above.span, self._caller)
        span = self._tracer.start_span(
            name,
            parent,
            kind=self._trace.SpanKind.INTERNAL if kind is None else kind,
            attributes=semconv.named(told),
            start_time=_nanoseconds(begun),
        )
        token = self._context.attach(self._trace.set_span_in_context(span)) if current else None
        return _Open(span, token)

    def _end(
        self,
        opened: _Open,
        told: Mapping[str, Any],
        *,
        error: str = "",
        described: str = "",
        ended: float | None = None,
    ) -> None:
        span = opened.span
        span.set_attributes(semconv.named({**told, "error": error or None}))
        if error:
            description = truncate(self._redactor.text(described), 300) or None
            span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, description))
        span.end(_nanoseconds(ended))
        if opened.token is not None:
            self._context.detach(opened.token)

    def _texts(self, **texts: str) -> dict[str, Any]:
        if not self._content:
            return {}
        return {name: truncate(self._redactor.text(text), CONTENT_CHARS) for name, text in texts.items() if text}

    def _messages(self, name: str, role: str, *texts: str) -> dict[str, Any]:
        """A message in the conventions' own form, as JSON."""
        shown = [self._texts(text=text) for text in texts if text] if self._content else []
        if not shown:
            return {}
        parts = [{"type": "text", "content": text["text"]} for text in shown]
        return {name: json.dumps([{"role": role, "parts": parts}])}


def _nanoseconds(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * 1e9)


_HANDLERS: dict[type[Event], Callable[[Telemetry, Any], None]] = {
    RunStarted: Telemetry._run_started,
    IterationStarted: Telemetry._decision_started,
    ActionChosen: Telemetry._decided,
    SubCallStarted: Telemetry._call_started,
    SubCallFinished: Telemetry._call_finished,
    IterationFinished: Telemetry._executed,
    RunFinished: Telemetry._run_finished,
}
