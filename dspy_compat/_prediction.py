"""What a call gives: a ``dspy.Prediction`` of plain data, with the run beside it."""

from __future__ import annotations

from typing import Any

import dspy

from dszig_py.trajectory import Prediction

__all__ = ["RLMPrediction", "to_dspy"]

FORCED = "The outputs were extracted from the history: the code did not SUBMIT."


class RLMPrediction(dspy.Prediction):
    """Fields are the outputs, ``trajectory`` and ``final_reasoning``; ``termination`` and ``run`` are attributes.

    They are no fields, because fields are what dspy writes to JSON and CSV, hands to sub-agents' callers and shows to
    reflection. An output of such a name is a field, and what the attribute gives.
    """

    def __init__(self, *args: Any, **fields: Any) -> None:
        super().__init__(*args, **fields)
        base = args[0] if args else fields.get("base")
        self._about: dict[str, Any] = dict(base._about) if isinstance(base, RLMPrediction) else {}

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            about = self.__dict__.get("_about", {})
            if name not in about:
                raise
            return about[name]

    def _repr_html_(self) -> str | None:
        """The run, in a notebook."""
        run = self._about.get("run")
        return None if run is None else run._repr_html_()


def to_dspy(prediction: Prediction) -> RLMPrediction:
    """Our prediction as dspy's: outputs, the trajectory as dspy.RLM gives it, and the whole run beside it."""
    iterations = prediction.trajectory.iterations
    told = [{"reasoning": i.action.reasoning, "code": i.action.code, "output": i.observation} for i in iterations]
    submitted = prediction.termination.kind == "submitted"
    reasoning = iterations[-1].action.reasoning if iterations and submitted else FORCED
    # The outputs last: dspy.majority votes on the last field.
    made = RLMPrediction(trajectory=told, final_reasoning=reasoning, **prediction.outputs)
    made._about = {"termination": prediction.termination, "run": prediction.trajectory}
    return made
