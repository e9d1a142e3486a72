"""What a reply comes to, and what a model is told of one that holds no code."""

from __future__ import annotations

from dataclasses import dataclass

MAX_CELLS = 50
MAX_MARKS = 2_000  # fences and tags looked at in one reply
MAX_CLOSERS = 50  # closing fences tried for one block
MAX_TRIALS = 400  # parses for one reply
MAX_TRIAL_CHARS = 600_000

ASK = "Reply with one ```python block; to finish, call SUBMIT(...) inside it."
EMPTY = f"Your reply was empty. {ASK}"
PROSE = f"Your reply had no code, so nothing ran; a SUBMIT(...) that prose mentions does not count. {ASK}"
ONLY_THOUGHTS = f"Your reply was only reasoning, and code inside reasoning tags does not run. {ASK}"
CUT = (
    "Your code was cut off before its block was closed, so that block did not run. "
    "Send it again, shorter or in smaller steps, in one closed ```python block."
)
BROKEN = "A code block of your reply does not parse as Python; the blocks after it were left out. Correct it first."
BAD_JSON = f"Your reply looks like JSON with code in it, but it is cut off or not valid. {ASK}"
BLANK = f"The code in your reply was empty. {ASK}"
TOO_MANY = (
    f"Your reply had more than {MAX_CELLS} code blocks; only the first ones were taken. Send one block at a time."
)


@dataclass(frozen=True, slots=True)
class Extracted:
    """What one reply of a model means.

    `cells`: the code blocks to run, in order, none of them blank; `()` when the reply has none.
    `reasoning`: the text around them, the content of reasoning tags included; as long as the reply, so bound it.
    `problem`: what the model should do next, in one or two sentences. Always there when `cells` is empty; with cells it
    says what was left out, to be shown with their observation.
    """

    cells: tuple[str, ...]
    reasoning: str
    problem: str = ""
