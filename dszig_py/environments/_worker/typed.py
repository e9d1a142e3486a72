"""Typed calls as the cell sees them. Standard library only; pydantic loads when a class of the cell is in a signature.

Classes made in a cell exist here alone. What travels is their JSON schema; what comes back is data, from which the real
instance is built here. Where that fails the host is asked again with the error, as a paid call like the first.
"""

from __future__ import annotations

import builtins
import re
import typing
from typing import Any

ATTEMPTS = 3
_NAME = re.compile(r"[A-Za-z_]\w*")


class Outputs(dict[str, Any]):
    """Several outputs: a dict whose items are attributes as well."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no output {name!r}; the outputs are {', '.join(self)}") from None


class TypedCalls:
    """``predict`` and ``rlm_query`` and their batched forms, over a plain ``call(name, args, kwargs)``."""

    NAMES = ("predict", "predict_batched", "rlm_query", "rlm_query_batched")
    FINALS = ("FINAL", "FINAL_VAR")

    def __init__(self, call: Any, namespace: dict[str, Any]) -> None:
        self.call = call
        self.namespace = namespace

    def predict(self, signature: Any, /, *, lm: str | None = None, **inputs: Any) -> Any:
        return self.one("predict", signature, inputs, {} if lm is None else {"lm": lm})

    def predict_batched(self, signature: Any, inputs: Any, *, lm: str | None = None) -> Any:
        return self.many("predict_batched", "predict", signature, inputs, {} if lm is None else {"lm": lm})

    def rlm_query(self, signature: Any, /, **inputs: Any) -> Any:
        return self.one("rlm_query", signature, inputs, {})

    def rlm_query_batched(self, signature: Any, inputs: Any = None) -> Any:
        if inputs is None:
            return self.call("rlm_query_batched", (signature,), {})
        return self.many("rlm_query_batched", "rlm_query", signature, inputs, {})

    def FINAL(self, *values: Any, **outputs: Any) -> Any:  # noqa: N802 - named as the paper's prompts name it
        """SUBMIT(value), judged as that is, for models that learnt from those prompts. The contract does not tell of it."""
        if len(values) != 1 or outputs:
            raise TypeError("FINAL takes one value; for several outputs call SUBMIT(name=value, ...)")
        return self.call("SUBMIT", values, {})

    def FINAL_VAR(self, name: Any) -> Any:  # noqa: N802
        """FINAL of the variable called ``name``; one that is missing is an error at its line, and no answer."""
        if isinstance(name, str) and (name.startswith("_") or name not in self.namespace):
            raise NameError(f"FINAL_VAR: there is no variable {name[:60]!r}")
        return self.FINAL(self.namespace[name] if isinstance(name, str) else name)

    def one(self, name: str, signature: Any, inputs: Any, options: dict[str, Any], error: str = "") -> Any:
        classes = self.classes(signature) if inputs else {}
        for _ in range(ATTEMPTS):
            again = {"error": error} if error else {}
            raw = self.call(name, (signature, inputs), {"classes": classes, **options, **again})
            try:
                return self.built(raw, classes)
            except ValueError as wrong:  # pydantic's ValidationError is one
                error = str(wrong)
        raise ValueError(f"{name} failed after {ATTEMPTS} replies: {error}")

    def many(self, name: str, single: str, signature: Any, inputs: Any, options: dict[str, Any]) -> list[Any]:
        classes = self.classes(signature)
        inputs = list(inputs) if not isinstance(inputs, (list, tuple)) else inputs
        answers = self.call(name, (signature, inputs), {"classes": classes, **options})
        for index, raw in enumerate(answers):
            if isinstance(raw, Exception):
                continue
            try:
                answers[index] = self.built(raw, classes)
            except ValueError as wrong:
                answers[index] = self.retried(single, signature, inputs[index], options, str(wrong))
        return answers

    def retried(self, name: str, signature: Any, inputs: Any, options: dict[str, Any], error: str) -> Any:
        try:
            return self.one(name, signature, inputs, options, error)
        except Exception as failure:  # an item's failure is its own
            return failure

    def classes(self, signature: Any) -> dict[str, Any]:
        """JSON schemas of the cell's classes that the signature names."""
        if not isinstance(signature, str):
            return {}
        names = {
            n for n in _NAME.findall(signature) if isinstance(self.namespace.get(n), type) and not hasattr(builtins, n)
        }
        own = {n for n in names if self.namespace[n].__module__ == "__main__"}
        if not own:
            return {}
        from pydantic import TypeAdapter

        return {name: TypeAdapter(self.namespace[name]).json_schema() for name in sorted(own)}

    def built(self, raw: Any, classes: dict[str, Any]) -> Any:
        if not isinstance(raw, dict):
            return raw
        outputs, types = raw["outputs"], raw["types"]
        for name, text in types.items():
            if classes and set(_NAME.findall(text)) & set(classes):
                from pydantic import TypeAdapter

                # The text is this cell's own signature; whoever wrote it runs code here anyway.
                tp = eval(text, {**vars(typing), **self.namespace})
                outputs[name] = TypeAdapter(tp).validate_python(outputs[name])
        return next(iter(outputs.values())) if len(outputs) == 1 else Outputs(outputs)
