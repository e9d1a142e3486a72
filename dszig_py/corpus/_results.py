"""What came of the elements of a corpus, and the file that holds it: a rerun runs what is missing there."""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from dszig_py import files
from dszig_py.environments._worker import codec
from dszig_py.errors import InputError
from dszig_py.signature import Signature
from dszig_py.trajectory import Prediction, Termination
from dszig_py.usage import Usage
from dszig_py.validation import coerce

__all__ = ["SCHEMA", "Log", "Mapped", "key_of"]

SCHEMA = "dszig.map/1"


@dataclass(frozen=True)
class Mapped:
    """What came of one element. ``index``: its place among the inputs.

    ``prediction`` is ``None`` where the result was read from a file, and where the run failed, which ``error`` then tells.
    Elements that the budget of all runs did not suffice for are left out; what it cut short is told, and a rerun goes on
    with it.
    """

    index: int
    outputs: Mapping[str, Any]
    termination: Termination
    usage: Usage = field(default_factory=Usage)
    error: str = ""
    prediction: Prediction | None = field(default=None, repr=False)

    @property
    def failed(self) -> bool:
        """Whether something else than the model failed: a rerun tries it again."""
        return self.termination.kind == "error" and self.termination.cause in ("provider", "environment")


class Log:
    """Results by place and inputs, in a JSONL file whose first line says of what signature."""

    def __init__(self, path: str | os.PathLike[str] | None, signature: str) -> None:
        self._rows: dict[tuple[int, str], dict[str, Any]] = {}
        self._fd: int | None = None
        if path is None:
            return
        if not isinstance(cast(object, path), (str, os.PathLike)):
            raise InputError(f"path takes a file's path, not {type(path).__name__}")
        place = Path(path).expanduser()
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(place, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._read(place, signature)
        except BlockingIOError:
            self.close()
            raise InputError(f"{place}: another process is writing to it, or another map of this one") from None
        except OSError as error:
            self.close()
            raise InputError(f"results cannot be kept in {place}: {error.strerror or error}") from error
        except BaseException:
            self.close()
            raise

    @property
    def kept(self) -> bool:
        """Whether there is a file."""
        return self._fd is not None

    def _read(self, path: Path, signature: str) -> None:
        assert self._fd is not None
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        first = {"schema": SCHEMA, "signature": signature}
        if not whole and codec.dumps(first).startswith(data):  # new, or the writer was killed within its first line
            os.ftruncate(self._fd, 0)
            self._write(first)
            return
        head, *rows = data[:whole].splitlines() or [data]
        try:
            read = cast("dict[str, Any]", codec.loads(head))
            if (read["schema"], read["signature"]) != (SCHEMA, signature):
                raise ValueError(f"it holds results of {read['signature']!r} ({read['schema']})")
            for row in map(codec.loads, rows):
                self._rows[row["index"], row["key"]] = row
            os.ftruncate(self._fd, whole)  # the last writer may have been killed within a line
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} cannot be gone on with: {error}; give another path, or remove it") from None

    def known(self, index: int, key: str, signature: Signature) -> Mapped | None:
        """The result of an earlier time, its outputs typed again."""
        row = self._rows.get((index, key))
        if row is None:
            return None
        try:
            given = codec.decode(row["outputs"], records=codec.plain_record)
            types = {f.name: f.type for f in signature.outputs}
            outputs = {n: value if value is None else coerce(types[n], value) for n, value in given.items()}
            usage = Usage(**row["usage"])
            mapped = Mapped(index, outputs, Termination(*row["termination"]), usage, row["error"])
        except (ValueError, KeyError, TypeError, AttributeError):  # somebody has written in the file: it says nothing
            return None
        return None if mapped.failed else mapped

    def add(self, key: str, mapped: Mapped) -> None:
        """Keep a result; it is in the file when this returns."""
        why, usage = mapped.termination, mapped.usage
        row = {
            "index": mapped.index,
            "key": key,
            "outputs": codec.encode(dict(mapped.outputs)),
            "termination": [why.kind, why.cause, why.detail],
            "usage": {n: getattr(usage, n) for n in ("calls", "input_tokens", "output_tokens", "cost", "seconds")},
            "error": mapped.error,
        }
        if self._fd is not None:
            self._write(row)

    def _write(self, row: Mapping[str, Any]) -> None:
        assert self._fd is not None
        line = codec.dumps(dict(row)) + b"\n"
        while line:
            line = line[os.write(self._fd, line) :]

    def close(self) -> None:
        """Let go of the file. May be called twice."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


def key_of(inputs: Mapping[str, Any], signature: Signature | None = None) -> str:
    """What inputs are known by: a digest of their values, so that an element that was changed is run again.

    Of files and folders, which ``signature`` says, their paths, sizes and times: they may be larger than can be read.
    """
    digest = hashlib.sha256()
    types = {} if signature is None else {f.name: f.type for f in signature.inputs}
    for name in sorted(inputs):
        value = inputs[name]
        text = value if isinstance(value, str) else _as_text(value)
        data = text.encode("utf-8", "surrogatepass")
        # With its length: else what moves from the end of one value to the next input's would not show.
        digest.update(f"{name}:{type(value).__name__}:{len(data)}:".encode("utf-8", "surrogatepass"))
        digest.update(data)
        if path := _place(value, types.get(name)):
            digest.update(_state(path).encode())
    return digest.hexdigest()[:32]


def _as_text(value: Any) -> str:
    encoded = codec.encode(value)
    text = codec.dumps(encoded).decode("ascii")
    # The order of a set is another one in each process, and this is to be known in the next one.
    return codec.dumps(_settled(encoded)).decode("ascii") if 'set",[' in text else text


def _settled(encoded: Any) -> Any:
    """What the codec made of a value, the members of sets in an order of their own."""
    if isinstance(encoded, list):
        return [_settled(item) for item in cast("list[Any]", encoded)]
    if not isinstance(encoded, dict):
        return encoded
    settled = {name: _settled(item) for name, item in cast("dict[str, Any]", encoded).items()}
    tagged: Any = settled.get(codec.TAG)
    if tagged and tagged[0] in ("set", "frozenset"):
        settled[codec.TAG] = [tagged[0], sorted(tagged[1], key=codec.dumps)]
    return settled


def _place(value: Any, tp: Any) -> str:
    """The path of an input that is a file or a folder, else nothing."""
    if isinstance(value, files.Text):
        value = value.content
    elif isinstance(value, str):
        return value if files.wanted(tp) in (files.File, files.Folder, Path) else ""
    if isinstance(value, (files.File, files.Folder)):
        return os.fspath(value.path)
    return os.fspath(value) if isinstance(value, Path) else ""


def _state(path: str) -> str:
    """What a file, or all that a folder holds, shows of having been changed."""
    found = [_shown(path)]
    for folder, inner, names in os.walk(path):
        inner.sort()
        found += [f"{name}:{_shown(os.path.join(folder, name))}" for name in sorted(names)]
    return "|".join(found)


def _shown(path: str) -> str:
    try:
        about = os.lstat(path)
    except (OSError, ValueError):
        return "none"
    # The time of a folder itself is that of anybody's lock file in it.
    return "folder" if stat.S_ISDIR(about.st_mode) else f"{about.st_size},{about.st_mtime_ns}"
