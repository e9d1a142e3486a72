"""Whether a text is Python, and was meant so: trial parses, within an allowance for one reply."""

from __future__ import annotations

import ast
import re
import textwrap
import threading
import warnings
from typing import cast

from dszig_py.replies._told import MAX_TRIAL_CHARS, MAX_TRIALS

__all__ = ["Trials", "acts"]


class Trials:
    """Trial parses, the one costly step, within a fixed allowance for one reply."""

    _lock = threading.Lock()

    def __init__(self) -> None:
        self.count = MAX_TRIALS
        self.chars = MAX_TRIAL_CHARS
        self.error = ""

    def take(self, chars: int) -> bool:
        if self.count <= 0 or chars > self.chars:
            return False
        self.count -= 1
        self.chars -= chars
        return True

    def tree(self, code: str) -> ast.Module | None:
        if not self.take(len(code)):
            return None
        try:
            if not _MAY_WARN.search(code):
                return _parse(code)
            # Changes filters of the whole process for a moment, hence not for code that cannot warn.
            with self._lock, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return _parse(code)
        except SyntaxError as error:
            self.error = f"line {error.lineno}: {error.msg}"
        except (ValueError, RecursionError, MemoryError, OverflowError) as error:
            self.error = str(error)
        return None

    def fit(self, code: str) -> tuple[str, ast.Module] | None:
        """The code, without prompts and common indentation where it needs that to parse, and its tree."""
        code = _without_prompts(code)
        if code[:1] in (" ", "\t"):
            code = textwrap.dedent(code)
        tree = self.tree(code)
        return None if tree is None else (code, tree)


# An escape that is not one, a number that runs into a keyword, `return` in `finally`: what a parser can warn about.
_MAY_WARN = re.compile(r"""\\[^\n\\'"abfnrtvxuUN0-3]|\d(?:and|else|for|if|in|is|not|or)|\bfinally\b""")


def _parse(code: str) -> ast.Module:
    flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    try:
        return cast(ast.Module, compile(code, "<reply>", "exec", flags, dont_inherit=True))
    except SystemError:  # another thread made a tree as well, and to 3.12 they count their depth together (gh-106905)
        return cast(ast.Module, compile(code, "<reply>", "exec", flags, dont_inherit=True))


def _without_prompts(code: str) -> str:
    if not code.lstrip().startswith(">>>"):
        return code
    lines = [line.lstrip() for line in code.split("\n")]
    # What has no prompt is output.
    return "\n".join(line[4:] for line in lines if line.startswith((">>> ", "... ")) or line in (">>>", "..."))


_DEFINING = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_ASSIGNING = (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.NamedExpr)
_LOOPING = (ast.For, ast.AsyncFor, ast.With, ast.AsyncWith, ast.ListComp, ast.SetComp, ast.DictComp)
_ACTING = _DEFINING + _ASSIGNING + _LOOPING
_TIGHT = re.compile(r"""[\w\])"'][(\[]""")
_WORDY = re.compile(r"(?!await\b)\w+[\s,]")


def acts(code: str, tree: ast.Module) -> bool:
    """Whether what parses as Python was meant so; `Done`, `Paris (France)`, `Now, SUBMIT(x=1)`, `{"a": 1}` were not."""
    tight = _TIGHT.search(code) is not None
    lines = code.split("\n")
    for statement in tree.body:
        if isinstance(statement, ast.AnnAssign) and statement.value is None:
            continue  # "Answer: SUBMIT(x=1)"
        if isinstance(statement, ast.Expr) and (statement.col_offset or _WORDY.match(lines[statement.lineno - 1])):
            continue
        for node in ast.walk(statement):
            if isinstance(node, _ACTING) or (tight and isinstance(node, ast.Call | ast.Subscript)):
                return True
    return False
