"""The `js` line: one JavaScript program in a Node process of its own. Trusted: Node's vm module is no boundary.

The value is what the code gave to FINAL, else what it printed, else its last expression, as in zigrlm. Global variables
that it made or changed and that hold a text, a number or a truth value come back as texts.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from typing import Any, cast

import anyio

from dszig_py.environments._script.grammar import ScriptError

__all__ = ["NodeJs", "find_node"]

_NAME = re.compile(r"[^\W\d]\w*")
_GRACE = 10.0  # seconds for Node to start and end, besides the code's own
_RUNNER = r"""
const vm = require('node:vm');
const read = [];
process.stdin.setEncoding('utf8');
process.stdin.on('data', (chunk) => read.push(chunk));
process.stdin.on('end', () => {
  const {code, variables, milliseconds, most} = JSON.parse(read.join(''));
  const printed = [];
  let given;
  const text = (v) => typeof v === 'string' ? v : v === undefined ? 'undefined' : JSON.stringify(v) ?? String(v);
  const own = {
    print: (...values) => { printed.push(values.map(text).join(' ')); },
    FINAL: (value) => { given = value; },
    FINAL_VAR: (name) => {
      if (!(name in box)) throw new ReferenceError(`there is no variable '${name}'`);
      given = box[name];
    },
  };
  own.console = {log: own.print};
  const box = {...variables, ...own};
  const answer = {changed: {}};
  try {
    const last = vm.runInNewContext(code, box, {timeout: milliseconds, filename: 'js'});
    answer.value = given !== undefined ? given : printed.length ? printed.join('\n') : last === undefined ? '' : last;
    for (const name of Object.keys(box)) {
      const value = box[name];
      const plain = ['string', 'number', 'boolean'].includes(typeof value);
      if (plain && !(name in own) && value !== variables[name]) answer.changed[name] = String(value);
    }
    if (JSON.stringify(answer.value) === undefined) answer.value = String(answer.value);
  } catch (error) {
    answer.error = error && error.name ? `${error.name}: ${error.message}` : String(error);
  }
  let line = JSON.stringify(answer);
  if (line.length > most) line = JSON.stringify({error: `RangeError: the value has more than ${most} characters`});
  process.stdout.write(line, () => process.exit(0));
});
"""


def find_node() -> str:
    """The path of Node, "" where it is not installed."""
    return shutil.which("node") or shutil.which("nodejs") or ""


@dataclass(frozen=True, slots=True)
class NodeJs:
    """``node``: its path. ``seconds``: for the code itself. ``most``: characters of the value and the globals together."""

    node: str
    seconds: float
    most: int

    async def __call__(self, code: str, variables: dict[str, Any]) -> tuple[Any, dict[str, str]]:
        """(value, changed globals) of ``code``, which is given the variables it names. Raises :class:`ScriptError`."""
        named = {name: variables[name] for name in set(_NAME.findall(code)) if name in variables}
        asked = {"code": code, "variables": named, "milliseconds": max(1, int(self.seconds * 1000)), "most": self.most}
        try:
            given = json.dumps(asked).encode("ascii")
        except (ValueError, RecursionError) as error:
            raise ScriptError(f"a variable cannot be given to js: {error}", "ValueError") from None
        answer = _read(await self._ran(given))
        if "error" in answer:
            kind = "TimeoutError" if "timed out" in answer["error"] else "RuntimeError"
            raise ScriptError(f"js: {answer['error']}", kind)
        return answer["value"], dict(answer["changed"])

    async def _ran(self, given: bytes) -> bytes:
        command = [self.node, "--max-old-space-size=512", "-e", _RUNNER]
        try:
            with anyio.fail_after(self.seconds + _GRACE):
                # Nothing of this process's environment goes along: keys of providers are there.
                done = await anyio.run_process(command, input=given, env={}, check=False, start_new_session=True)
        except TimeoutError:
            raise ScriptError(f"js: not done after {self.seconds:g} s, and stopped", "TimeoutError") from None
        except OSError as error:
            raise ScriptError(f"js: Node could not be run: {error}", "RuntimeError") from None
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip()[-500:]
            raise ScriptError(f"js: Node ended with code {done.returncode}: {said}", "RuntimeError")
        return done.stdout


def _read(line: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict) or not ({"error"} <= answer.keys() or {"value", "changed"} <= answer.keys()):
        raise ScriptError("js: the code wrote over the answer", "RuntimeError")
    return cast("dict[str, Any]", answer)
