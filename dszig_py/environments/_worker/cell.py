"""One live REPL: a namespace, and the running of cells in it. Standard library only, shared by worker and in-process.

A cell is compiled whole, its last expression apart (its value is shown), with top-level ``await`` allowed. What the
host offers (SUBMIT, sub-calls, tools) and the builtins are put back before every cell, so that ``llm_query = "x"`` or
``list = [...]`` in one cell cannot break the next.
"""

from __future__ import annotations

import ast
import asyncio
import builtins
import contextvars
import inspect
import io
import linecache
import reprlib
import sys
import threading
import traceback
import types
from typing import Any

FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
_BUILTINS = dict(vars(builtins))
_MAX_ERROR = 6_000
_HERE = __file__
_TRACERS = (sys.settrace, sys.setprofile)  # bound now: a cell may put something else in their place


class Submitted(BaseException):
    """SUBMIT was accepted: unwinds the cell. A BaseException, so that ``except Exception`` in the cell lets it pass."""


class CellTimeout(BaseException):
    """The cell ran past its seconds. Shown to the model under the name it knows."""


CellTimeout.__module__, CellTimeout.__qualname__ = "builtins", "TimeoutError"


def stop_tracing() -> None:
    """A tracer that a cell left behind must not run, and raise, inside the worker's own lines."""
    for stop in _TRACERS:
        try:
            stop(None)
        except BaseException:  # the tracer's last word; Python drops a tracer that raises
            pass


def quiet_submit(args: Any) -> None:
    """``threading.excepthook``: a thread that ends by an accepted SUBMIT ends well."""
    if args.exc_type is not Submitted:
        threading.__excepthook__(args)


class Output(io.TextIOBase):
    """Text written by a cell, bounded: the first two thirds of ``limit`` characters and the last third are kept."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._head_room = limit - limit // 3
        self._tail_room = limit // 3
        self._head: list[str] = []
        self._tail = ""
        self._lock = threading.Lock()
        self.chars = 0

    def write(self, text: str) -> int:
        if type(text) is not str:
            if not isinstance(text, str):
                raise TypeError(f"write() argument must be str, not {type(text).__name__}")
            text = str.__str__(text)  # a subclass may lie about its length
        with self._lock:
            self.chars += len(text)
            if self._head_room:
                part, rest = text[: self._head_room], text[self._head_room :]
                self._head.append(part)
                self._head_room -= len(part)
            else:
                rest = text
            if rest:
                self._tail = self._tail + rest[-2 * self._tail_room - 1 :]
                if len(self._tail) > 2 * self._tail_room:
                    self._tail = self._tail[len(self._tail) - self._tail_room :] if self._tail_room else ""
        return len(text)

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    @property
    def buffer(self) -> _Bytes:
        return _Bytes(self)

    def parts(self) -> tuple[str, str, int]:
        """(head, tail, characters written in all); head + tail is the whole text where nothing was dropped."""
        head = "".join(self._head)
        tail = self._tail
        room = self.chars - len(head)
        if len(tail) < room and self._tail_room:
            tail = tail[-self._tail_room :]
        return head, tail, self.chars


class _Bytes(io.RawIOBase):
    """``sys.stdout.buffer`` of a cell."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def write(self, data: Any) -> int:
        self._output.write(bytes(data).decode("utf-8", "replace"))
        return len(data)

    def writable(self) -> bool:
        return True


class Repl:
    """The namespace and everything that persists in it from cell to cell, also after an exception.

    A worker process is its REPL's own: the cells' module is ``__main__``, and the builtins are put back for all. Where
    others live in the same process, ``own_builtins`` is a module that stands for builtins in these cells alone, and
    ``name`` tells this REPL's cells from those of others in tracebacks and in linecache.
    """

    def __init__(self, own_builtins: types.ModuleType | None = None, name: str = "") -> None:
        self.module = types.ModuleType("__main__")
        self.namespace = self.module.__dict__
        self.name = name
        self.alone = own_builtins is None
        self.builtins = own_builtins or builtins
        self._builtins = _BUILTINS
        self.namespace["__builtins__"] = self.builtins
        self.functions: dict[str, Any] = {"SHOW_VARS": self.show_vars}
        self.inputs: frozenset[str] = frozenset()
        self._runner: asyncio.Runner | None = None

    def bind(self, variables: dict[str, Any], functions: dict[str, Any]) -> None:
        """Set the input variables and the host's callables. Later cells may rebind an input; it stays rebound."""
        self.inputs |= frozenset(variables)
        self.namespace.update(variables)
        self.functions.update(functions)
        self.functions["SHOW_VARS"] = self.show_vars  # the host offers it by name only: the variables are here

    def execute(self, code: str, number: int, output: Output) -> dict[str, Any]:
        """Run one cell, its prints going to ``output``. Never raises for what the cell does.

        Returns ``value`` (repr of the last expression, or None), ``error`` (a traceback, or ""), ``submitted``.
        """
        self._put_back(output)
        filename = f"<cell {number}{self.name}>"
        # No trailing mtime: linecache.checkcache() leaves such entries alone, so tracebacks can show the cell's lines.
        linecache.cache[filename] = (len(code), None, code.splitlines(keepends=True), filename)
        result: dict[str, Any] = {"value": None, "error": "", "submitted": False}
        try:
            body, last = (self._own_code(part) for part in _compile(code, filename))
            if body is not None:
                self._run(body)
            if last is not None:
                before = output.chars
                value = self._run(last)
                if value is not None or output.chars == before:  # the None of a print() says nothing
                    result["value"] = short_repr(value, output.limit)
        except Submitted:
            result["submitted"] = True
        except BaseException as error:
            result["error"] = describe(error)
        finally:
            self.put_builtins_back()
        return result

    def _own_code(self, code: types.CodeType | None) -> types.CodeType | None:
        # pydantic looks names up in sys.modules["__main__"] for classes of "<module>" code, else in the code's globals.
        return code if code is None or self.alone else code.replace(co_name="<cell>")

    def _run(self, code: types.CodeType) -> Any:
        if not code.co_flags & inspect.CO_COROUTINE:
            return eval(code, self.namespace)
        if self._runner is None:
            self._runner = asyncio.Runner()
        return self._runner.run(eval(code, self.namespace), context=contextvars.copy_context())

    def remember_builtins(self) -> None:
        """What is among the builtins now is what cells get back."""
        self._builtins = dict(vars(self.builtins))

    def put_builtins_back(self) -> None:
        vars(self.builtins).update(self._builtins)

    def _put_back(self, output: Output) -> None:
        self.put_builtins_back()
        for name in self._own(lambda n: n in self._builtins and n not in self.inputs and not n.startswith("__")):
            if self.namespace[name] is self._builtins[name]:
                continue
            self.namespace[f"{name}_"] = self.namespace.pop(name)
            output.write(f"[`{name}` is the builtin again; your value of that name is now `{name}_`]\n")
        self.namespace.update(self.functions)
        self.namespace["__name__"] = "__main__"
        self.namespace["__builtins__"] = self.builtins
        if self.alone:
            sys.modules["__main__"] = self.module

    def names(self) -> list[str]:
        """What the cells made and the inputs they have: the names a lost worker would take along."""
        return self._own(lambda n: not n.startswith("_") and n not in self.functions)

    def _own(self, wanted: Any) -> list[str]:
        """Names for which ``wanted`` holds. Copied first, for a thread may add more; ``globals()[1]`` is no name."""
        return [n for n in list(self.namespace) if type(n) is str and wanted(n)]

    def show_vars(self) -> dict[str, str]:
        """SHOW_VARS(): name -> short description of every variable."""
        found: dict[str, str] = {}
        for name in self.names():
            value = self.namespace.get(name)
            if not isinstance(value, types.ModuleType):
                found[name] = short_repr(value, 120)
        return found

    def forget_loop(self) -> None:
        """Let go of the event loop of top-level ``await``: the thread it runs in does not come back."""
        self._runner = None

    def close(self) -> None:
        if self._runner is not None:
            self._runner.close()


def _final_values(tree: ast.Module) -> None:
    """FINAL_VAR(x), with the variable and not its name in quotes, is FINAL(x): its text may name another variable."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "FINAL_VAR":
            named = len(node.args) == 1 and isinstance(node.args[0], (ast.Name, ast.Subscript, ast.Attribute))
            node.func.id = "FINAL" if named else "FINAL_VAR"


def _compile(code: str, filename: str) -> tuple[types.CodeType | None, types.CodeType | None]:
    try:
        tree = compile(code, filename, "exec", FLAGS | ast.PyCF_ONLY_AST, dont_inherit=True)
    except SystemError:  # another thread made a tree as well, and to 3.12 they count their depth together (gh-106905)
        tree = compile(code, filename, "exec", FLAGS | ast.PyCF_ONLY_AST, dont_inherit=True)
    assert isinstance(tree, ast.Module)
    if "FINAL_VAR" in code:
        _final_values(tree)
    last: ast.Expression | None = None
    if tree.body and isinstance(tree.body[-1], ast.Expr) and not code.rstrip().endswith(";"):
        statement = tree.body.pop()
        assert isinstance(statement, ast.Expr)
        last = ast.Expression(statement.value)
    body = compile(tree, filename, "exec", FLAGS, dont_inherit=True) if tree.body else None
    return body, compile(last, filename, "eval", FLAGS, dont_inherit=True) if last is not None else None


def describe(error: BaseException) -> str:
    """The traceback of ``error`` as the model should see it: the cell's frames, not the machinery around them."""
    try:
        text = _traceback(error)
    except BaseException as second:  # a hostile __str__ or __repr__ must not end the worker
        text = f"{type(error).__name__} (its message could not be shown: {type(second).__name__})"
    if len(text) > _MAX_ERROR:
        text = f"{text[: _MAX_ERROR // 2]}\n... [{len(text) - _MAX_ERROR:,} characters left out] ...\n{text[-_MAX_ERROR // 2 :]}"
    return text


def _traceback(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return "SystemExit: the REPL stays open. Call SUBMIT(...) to finish."
    shown = traceback.TracebackException.from_exception(error, limit=-40)
    _hide_machinery(shown, set())
    return "".join(shown.format()).rstrip()


def _hide_machinery(shown: Any, seen: set[int]) -> None:
    if shown is None or id(shown) in seen:
        return
    seen.add(id(shown))
    folder = _HERE.rsplit("/", 2)[0]
    shown.stack[:] = [frame for frame in shown.stack if not frame.filename.startswith(folder)]
    for other in (shown.__cause__, shown.__context__, *(getattr(shown, "exceptions", None) or ())):
        _hide_machinery(other, seen)


def stubs(functions: Any, call: Any, typed_calls: Any) -> dict[str, Any]:
    """The host's callables as the code sees them: ``functions`` are pairs of name and documentation, ``call(name, args,
    kwargs)`` asks the host, and ``typed_calls`` has those that want more than that.
    """
    names = typed_calls.NAMES
    own = {n: _stub(n, doc, call, getattr(typed_calls, n) if n in names else None) for n, doc in functions}
    return {**own, **{n: getattr(typed_calls, n) for n in typed_calls.FINALS}}


def _stub(name: str, doc: str, call: Any, typed_call: Any) -> Any:
    def stub(*args: Any, **kwargs: Any) -> Any:
        return call(name, args, kwargs) if typed_call is None else typed_call(*args, **kwargs)

    stub.__name__ = stub.__qualname__ = name
    stub.__doc__ = doc
    stub.__module__ = "__main__"
    return stub


_ERROR_KINDS = (
    *(RuntimeError, ValueError, TypeError, KeyError, LookupError),
    *(TimeoutError, OSError, PermissionError, NameError),
)
_ERRORS: dict[str, Any] = {kind.__name__: kind for kind in _ERROR_KINDS}


def answer(reply: dict[str, Any]) -> Any:
    """The value in the host's reply to a call. Raises what the reply says: a refusal, or the end of the cell."""
    if "error" in reply:
        raise _ERRORS.get(reply["error"][0], RuntimeError)(reply["error"][1])
    if reply.get("submitted"):
        raise Submitted
    return reply["ok"]


class _Short(reprlib.Repr):
    def __init__(self, limit: int) -> None:
        super().__init__()
        self.maxlevel = 6
        self.maxstring = self.maxother = max(limit, 20)
        self.maxlong = max(min(limit, 4_000), 40)
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdeque = max(
            limit // 4, 6
        )


def short_repr(value: Any, limit: int) -> str:
    """``repr(value)`` within about ``limit`` characters, without building the whole of a huge value's repr."""
    try:
        if isinstance(value, (str, bytes)) and len(value) > limit:
            kept = limit // 2
            return f"{value[:kept]!r} ... {value[-kept:]!r} ({len(value):,} in all)"
        text = _Short(limit).repr(value) if isinstance(value, (list, dict, tuple, set, frozenset)) else repr(value)
        text = str.__str__(text)  # a subclass may lie about its length
    except BaseException as error:
        text = f"<{type(value).__name__}, whose repr raised {type(error).__name__}>"
    if len(text) > limit:
        text = f"{text[: limit - limit // 3]} ... {text[len(text) - limit // 3 :]}"
    return text
