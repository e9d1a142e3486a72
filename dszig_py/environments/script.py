"""``environment="script"``: no code runs. Blocks are lines of the small `repl` language, obeyed by an interpreter of ours.

For weak models, which write few correct programs and many correct lines, and for audits: all that a block can do is bind
texts, print, ask the host and submit. ``js`` lines, where they are asked for, run in Node and are trusted.
The language is zigrlm's ``repl`` (and through it that of the paper's first prompts), without the misreadings: FINAL counts
in a block alone, a failed line stops its block, an unknown variable of FINAL_VAR is an error and no answer.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dszig_py import files, images
from dszig_py.environments._script import guide, values
from dszig_py.environments._script.grammar import ScriptError
from dszig_py.environments._script.javascript import NodeJs, find_node
from dszig_py.environments._script.machine import Bounds, Machine
from dszig_py.environments._worker import codec
from dszig_py.environments._worker.cell import Output, short_repr
from dszig_py.environments.base import CellLimits, Execution, Host, Isolation, Snapshot
from dszig_py.errors import EnvironmentFailure
from dszig_py.language import Language
from dszig_py.text import truncate

if TYPE_CHECKING:
    from dszig_py.contract import Contract

__all__ = ["ScriptEnvironment"]

_NO_CODE = Isolation(
    "script",
    covered=(
        "no code runs: each line is read by an interpreter that can bind texts, print, ask the host and submit",
        "no file, process, network or memory of this machine is within its reach",
        "lines of a block, characters of a value, of all variables and of the output are bounded",
    ),
    not_covered=(),
)
_WITH_JS = Isolation(
    "none",
    covered=("lines other than js run no code", "js has a process of its own, a deadline and an empty environment"),
    not_covered=("js is trusted: Node's vm module is no boundary, so it can do all that this user can",),
)
_JS_OFF = 'js runs trusted code and is off; the caller turns it on with environment="script+js". Work without it'
_NO_NODE = "js needs Node, and neither node nor nodejs is installed"
_JS_CHARS = 4_000_000


@dataclass(frozen=True, slots=True)
class ScriptEnvironment:
    """Blocks in the `repl` language. ``js``: with JavaScript lines, trusted, through Node; ``cell_seconds``: for one of them.

    Inputs are texts or data that JSON can hold. ``open`` raises :class:`InputError` for others, and
    :class:`EnvironmentFailure` where ``js`` is asked for and Node is not installed.
    """

    js: bool = False
    cell_seconds: float = 5.0
    bounds: Bounds = field(default_factory=Bounds)
    name: str = field(default="script", init=False)

    @property
    def language(self) -> Language:
        """What its code is written in."""
        return guide.language(self.js)

    async def open(self, contract: Contract, host: Host, limits: CellLimits) -> ScriptSession:
        """Bind the inputs. Nothing is started."""
        node = find_node() if self.js else ""
        if self.js and not node:
            raise EnvironmentFailure(_NO_NODE)
        seconds = self.cell_seconds if limits.seconds is None else limits.seconds
        js = NodeJs(node, seconds, _JS_CHARS) if node else None
        files.refused({v.name: v.value for v in contract.variables}, self.name)
        images.refused(contract.signature, self.name)
        inputs = await _inputs(contract)
        machine = Machine(host, contract.signature.outputs, inputs, js, _JS_OFF, self.bounds)
        return ScriptSession(machine, limits.output_chars)


class ScriptSession:
    """One live REPL: its variables."""

    def __init__(self, machine: Machine, output_chars: int) -> None:
        self._machine, self._chars = machine, output_chars
        self._closed = self._used = False

    @property
    def isolation(self) -> Isolation:
        return _WITH_JS if self._machine.js else _NO_CODE

    async def execute(self, code: str) -> Execution:
        """Obey one block. Raises :class:`EnvironmentFailure` once closed, and what ends the run."""
        if self._closed:
            raise EnvironmentFailure("the session is closed")
        self._used = True
        started = time.monotonic()
        output = Output(self._chars)
        result = await self._machine.run(code, output)
        head, tail, chars = output.parts()
        return Execution(
            stdout=truncate(f"{head}{tail}", self._chars, total=chars),
            stdout_chars=chars,
            error=result.error,
            submission=result.submission,
            seconds=time.monotonic() - started,
        )

    async def variables(self) -> dict[str, str]:
        """Name -> short repr."""
        if self._closed:
            return {}
        shown = list(self._machine.variables.items())[:500]
        return {name[:200]: short_repr(value, 120)[:200] for name, value in shown}

    def bind(self, name: str, value: Any) -> bool:
        """Bind data. Whether there was room for it."""
        try:
            self._machine.keep(name, value)
        except ScriptError:
            return False
        return True

    async def snapshot(self) -> Snapshot:
        """All variables but the inputs: each is data."""
        held = self._machine.variables.items()
        made = {} if self._closed else {name: v for name, v in held if name not in self._machine.inputs}
        return Snapshot(tuple((name, codec.encode(value)) for name, value in made.items()))

    async def renew(self, contract: Contract, host: Host, carried: Snapshot) -> None:
        """Serve another run. Raises :class:`InputError` for inputs of another kind."""
        inputs = await _inputs(contract)
        if not self._used:
            for name, value in carried.values:
                self._machine.keep(name, codec.decode(value))
        self._machine.rebind(host, contract.signature.outputs, inputs)

    async def close(self) -> None:
        """Nothing is held open."""
        self._closed = True


async def _inputs(contract: Contract) -> dict[str, Any]:
    """The inputs as texts and data, made off the event loop: a list of many documents takes a while."""

    def made() -> dict[str, Any]:
        return {v.name: values.as_data(v.name, v.value) for v in contract.variables}

    return await asyncio.to_thread(made)
