"""Types as text: how one is written in a signature, and what the text of one means.

A type is parsed to a syntax tree and each of its names is looked up in a table or among the classes the caller gave;
nothing is evaluated. What no entry names is refused, with the nearest name that would do.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import reduce
from pathlib import Path
from types import GenericAlias, ModuleType, NoneType, UnionType
from typing import Annotated, Any, Literal, Optional, Union, cast, get_args, get_origin
from uuid import UUID

from dszig_py.errors import SignatureError
from dszig_py.evidence import Evidence
from dszig_py.files import File, Folder, Text
from dszig_py.images import Image

__all__ = ["STRING", "TypeReader", "short", "type_text"]

STRING = r"""'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*\""""
"""A string literal on one line, as a pattern."""
_STRINGS = re.compile(STRING, re.DOTALL)
_MAX_TYPE, _MAX_INT_BITS, _MAX_MEMBERS = 8_192, 1024, 64
_ARITY: dict[Any, int] = {list: 1, set: 1, frozenset: 1, Sequence: 1, dict: 2, Mapping: 2, tuple: -1}
_PLAIN = (str, int, float, bool, complex, bytes, date, datetime, time, timedelta, Decimal, UUID, NoneType, *_ARITY)
# The capitalised names mean the builtins: typing.List[int] != list[int], and two spellings of one type must be equal.
_typing: dict[str, Any] = {"Any": Any, "Optional": Optional, "Union": Union, "Literal": Literal}
_typing |= {"List": list, "Dict": dict, "Tuple": tuple, "Set": set, "FrozenSet": frozenset}
_typing |= {"Sequence": Sequence, "Mapping": Mapping}
_NAMES: dict[str, Any] = (
    {tp.__name__: tp for tp in _PLAIN}
    | _typing
    | {tp.__name__: tp for tp in (Evidence, File, Folder, Image, Text, Path)}
)
_MODULES: dict[str, dict[str, Any]] = {
    "typing": _typing,
    "t": _typing,
    "typing_extensions": _typing,
    "collections.abc": {"Sequence": Sequence, "Mapping": Mapping},
    "datetime": {tp.__name__: tp for tp in (date, datetime, time, timedelta)},
    "decimal": {"Decimal": Decimal},
    "uuid": {"UUID": UUID},
    "pathlib": {"Path": Path},
}
# What people write out of habit from JSON Schema and is spelled too differently for difflib.
_FOREIGN = {"text": "str", "number": "float", "double": "float", "array": "list", "object": "dict", "null": "None"}


def type_text(tp: Any) -> str:
    """How a type is written in a signature and shown to a model: ``list[dict[str, int]]``, ``str | None``, ``Invoice``.

    ``Annotated`` shows as its bare type: constraints are shown in words, next to it.
    """
    origin, args = get_origin(tp), get_args(tp)
    if tp is None or tp is NoneType:
        return "None"
    if tp is ...:
        return "..."
    if isinstance(tp, list):  # the parameters of a Callable
        return f"[{', '.join(map(type_text, cast('list[Any]', tp)))}]"
    if origin is None:
        return str(getattr(tp, "__name__", None) or getattr(tp, "__forward_arg__", tp))
    if origin is Annotated:
        return type_text(args[0])
    if origin is Union or origin is UnionType:
        return " | ".join(map(type_text, args))
    if origin is Literal:
        return f"Literal[{', '.join(map(_literal_text, args))}]"
    name = str(getattr(origin, "__name__", origin))
    if not args:  # tuple[()] has no arguments either, but is not a bare tuple
        return f"{name}[()]" if isinstance(tp, GenericAlias) else name
    return f"{name}[{', '.join(map(type_text, args))}]"


def _literal_text(value: Any) -> str:
    return f"{type(value).__name__}.{value.name}" if isinstance(value, Enum) else repr(value)


def short(text: str) -> str:
    """At most 80 characters of ``text`` on one line, for error messages."""
    shown = " ".join(text[:400].split())
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


@dataclass(frozen=True, slots=True)
class TypeReader:
    """Reads one field's type. No node is evaluated; whatever is not named below is refused."""

    field: str
    text: str
    given: Mapping[str, Any]

    def fail(self, why: str) -> SignatureError:
        return SignatureError(f"field {self.field!r}: {why} (in {short(self.text)!r})")

    def read(self) -> Any:
        if not self.text:
            raise SignatureError(f"field {self.field!r} has ':' but no type; write '{self.field}: str' or no ':'")
        if len(_STRINGS.sub("''", self.text)) > _MAX_TYPE:
            raise self.fail(f"the type is longer than {_MAX_TYPE} characters; pass a class in types=")
        try:
            node = ast.parse(f"({self.text}\n)", mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise self.fail("not a type; write one such as list[str], int | None or Literal['a', 'b']") from None
        return self.type(node)

    def type(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=None):
                return NoneType
            case ast.Name() | ast.Attribute():
                return self.checked(self.named(node))
            case ast.BinOp(op=ast.BitOr()):
                return self.checked(self.union(node))
            case ast.Subscript():
                return self.checked(self.subscript(node))
            case ast.Tuple():
                raise self.fail("a bare list of types; write tuple[...] or Union[...]")
            case ast.Constant():
                raise self.fail(f"{short(repr(node.value))} is a value, not a type; write Literal[...] around values")
            case _:
                raise self.fail("only names, [...] and | make a type; pass anything else as a class in types=")

    def union(self, node: ast.BinOp) -> Any:
        parts: list[ast.expr] = []
        left: ast.expr = node
        while isinstance(left, ast.BinOp) and isinstance(left.op, ast.BitOr):  # a | b | c leans left, without bound
            parts.append(left.right)
            left = left.left
        return self.joined([self.type(part) for part in (left, *reversed(parts))])

    def joined(self, args: Sequence[Any]) -> Any:
        # Union[...] keeps a cache by equality, and would hand back members in the order of whoever asked first.
        try:
            joined = reduce(_joined, args)
        except Exception as error:  # a given class's metaclass may define | for itself
            raise self.fail(f"these types make no union: {error}; write a base class instead") from None
        if len(get_args(joined)) > _MAX_MEMBERS:
            raise self.fail(f"a union of over {_MAX_MEMBERS} types; Literal[...] holds any number of values")
        return joined

    def named(self, node: ast.expr) -> Any:
        """What a name stands for: a type, ``Optional``, ``Union`` or ``Literal``, or an object under ``types``."""
        path: list[str] = []
        while isinstance(node, ast.Attribute):
            path.insert(0, node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            raise self.fail("only a name may stand before '.' or '['; pass a class in types=")
        path.insert(0, node.id)
        if (found := self.from_given(path)) is not None:
            return found
        table = _MODULES.get(".".join(path[:-1]), {}) if len(path) > 1 else _NAMES
        if path[-1] in table:
            return table[path[-1]]
        raise self.unknown(".".join(path))

    def from_given(self, path: list[str]) -> Any:
        found = self.given.get(path[0])
        if len(path) == 1 and isinstance(found, ModuleType):  # types=globals() where `import datetime` was done
            return None
        try:
            # Public attributes only: dunders lead from any class to everything there is.
            return reduce(lambda at, name: None if name.startswith("_") else getattr(at, name), path[1:], found)
        except Exception:  # a lazy module or a property may raise anything
            return None

    def unknown(self, name: str) -> SignatureError:
        # Case is folded, as `Str` and `Datetime` are common slips; reversed, so that `list` wins over `List`.
        known = {each.lower(): each for each in reversed([*map(str, self.given), *_NAMES, *_MODULES])}
        close = [known[each] for each in difflib.get_close_matches(name.lower(), known, n=3)]
        if name in _FOREIGN:
            close = [_FOREIGN[name]]
        hint = f"did you mean {' or '.join(close)}, or else " if close else ""
        last = short(name.rpartition(".")[2])
        return self.fail(f'no type is called {short(name)!r}; {hint}pass your class as types={{"{last}": {last}}}')

    def checked(self, found: Any) -> Any:
        if any(found is special for special in (Optional, Union, Literal)):
            raise self.fail("Optional, Union and Literal need brackets: Optional[str], Union[int, str], Literal['a']")
        is_type = isinstance(found, type) or found is Any or get_origin(found) is not None
        # NewType, TypeVar and `type X = ...` are types to pydantic; typing has no common base for them.
        if is_type or type(found).__module__ in ("typing", "typing_extensions"):
            return found
        raise self.fail(f"{short(repr(found))} is not a type; pass the class itself in types=")

    def subscript(self, node: ast.Subscript) -> Any:
        head = self.named(node.value)
        items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if head is Literal:
            return _apply(head, tuple(map(self.literal, items))) if items else self.checked(head)
        if head is tuple and len(items) == 2 and isinstance(items[1], ast.Constant) and items[1].value is ...:
            return GenericAlias(tuple, (self.type(items[0]), ...))
        args = tuple(self.type(item) for item in items)
        if head is Union or head is Optional:
            if not args or (head is Optional and len(args) != 1):
                raise self.fail("Optional takes one type, Union one or more: Optional[str], Union[int, str]")
            return self.joined(args if head is Union else (*args, NoneType))
        if head in _PLAIN:
            return self.builtin(head, args)
        try:
            return _apply(head, args)
        except Exception as error:  # __class_getitem__ is the given class's own code
            raise self.fail(f"{type_text(head)} does not take these types in brackets: {error}") from None

    def builtin(self, head: Any, args: tuple[Any, ...]) -> Any:
        count, name = _ARITY.get(head, 0), type_text(head)
        if count == 0:
            raise self.fail(f"{name} takes no brackets; write {name}, or Literal[...] for certain values")
        if count > 0 and len(args) != count:
            good = f"{name}[str]" if count == 1 else f"{name}[str, int]"
            raise self.fail(f"{name} takes {count} in brackets, not {len(args)}; write {good}, say")
        if head in (set, frozenset, dict, Mapping) and (get_origin(args[0]) or args[0]) in (list, dict, set):
            raise self.fail(f"a {type_text(args[0])} is not hashable, so it cannot be in a {name}; write tuple[...]")
        return _apply(head, args)

    def literal(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=int() as value) if value.bit_length() > _MAX_INT_BITS:
                raise self.fail("a number in Literal is too long; write it as a string")
            case ast.Constant(value=str() as value) if re.search("[\ud800-\udfff]", value):
                raise self.fail("a string in Literal holds half a surrogate pair; write the whole character")
            case ast.Constant(value=str() | bytes() | bool() | int() | None as value):
                return value
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() as value)) if not isinstance(value, bool):
                return -value
            case ast.Attribute() if isinstance(member := self.named(node), Enum):
                return member
            case _:
                raise self.fail("Literal takes strings, whole numbers, bytes, True, False, None and Enum members")


def _joined(left: Any, right: Any) -> Any:
    # Each | looks at all before it.
    full = get_origin(left) in (Union, UnionType) and len(get_args(left)) > _MAX_MEMBERS
    return left if full else left | right


def _apply(head: Any, args: tuple[Any, ...]) -> Any:
    return head[args[0] if len(args) == 1 else args]
