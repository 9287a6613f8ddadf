"""What became of each attack: a line per attack in a file, and the table of all."""

from __future__ import annotations

import json
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from relrank.errors import InputError, from_os_error
from relrank.parallel.memory import is_out_of_memory

Found = Literal["refused", "same", "wrong", "trace", "crash", "hang", "lost"]
"""Refused in one sentence; answered as before, or as the input means; another answer, in silence; another exception
than the one for users; the process ended by itself; it did not end; what was finished before is gone."""
FAULTS: tuple[Found, ...] = ("wrong", "trace", "crash", "hang", "lost")
HEADINGS = dict(
    zip(
        get_args(Found),
        ("refused in one sentence", "answered", "wrong answers", "stack traces", "crashes", "hangs", "lost"),
        strict=True,
    )
)
LONGEST = 2_000
"""Characters of an error that is still read."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one attack.

    Attributes:
        kind: what was attacked, and how; a row of the table.
        found: see ``Found``.
        done: what was done, and what was seen where that is a fault.
        tried: attacks that this speaks for, such as the kills before one end.
    """

    kind: str
    found: Found
    done: str = ""
    tried: int = 1

    @property
    def is_right(self) -> bool:
        """Whether nothing is wrong."""
        return self.found not in FAULTS


def judged(kind: str, done: str, answer: Callable[[], bool]) -> Outcome:
    """The outcome of something that answers, says whether that is right, or refuses."""
    try:
        return Outcome(kind, "same" if answer() else "wrong", done)
    except InputError as error:
        said = str(error)
        if len(said) <= LONGEST:
            return Outcome(kind, "refused", done)
        return Outcome(kind, "trace", f"{done} | an error of {len(said):,} characters: {said[:200]}")
    except TimeoutError:
        return Outcome(kind, "hang", done)
    except BaseException as error:  # Polars panics with one
        if isinstance(error, KeyboardInterrupt):
            raise
        if isinstance(error, OSError) and error.filename is not None:  # the program says these in a sentence, too
            return Outcome(kind, "refused", done)
        if is_out_of_memory(error) or from_os_error(error):
            return Outcome(kind, "refused", done)
        if isinstance(error, AssertionError):
            return Outcome(kind, "wrong", f"{done} | {error}")
        return Outcome(kind, "trace", f"{done} | {traceback.format_exc()[-1500:]}")


class Ledger:
    """The lines of one part, each an outcome with its number; those that are there are not tried again.

    Attributes:
        seed: of the series.
        outcomes: by number.
    """

    def __init__(self, path: Path, seed: int) -> None:
        self._path, self.seed = path, seed
        self.outcomes: dict[int, Outcome] = {}
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if text and not text.endswith("\n"):
            with path.open("a", encoding="utf-8") as out:
                out.write("\n")
        for line in text.splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # the last line of a run that was killed
                continue
            number = row.pop("number")
            if row.pop("seed") == seed:
                self.outcomes[number] = Outcome(**row)

    def forget_faults(self) -> None:
        """They are tried again, and what is found then counts."""
        self.outcomes = {number: outcome for number, outcome in self.outcomes.items() if outcome.is_right}

    def add(self, number: int, outcome: Outcome) -> None:
        """One more."""
        self.outcomes[number] = outcome
        with self._path.open("a", encoding="utf-8") as out:
            out.write(json.dumps({"seed": self.seed, "number": number, **asdict(outcome)}) + "\n")

    @property
    def tried(self) -> int:
        """Attacks so far."""
        return sum(outcome.tried for outcome in self.outcomes.values())


def table(parts: Iterable[tuple[str, Iterable[Outcome]]]) -> str:
    """Counts per part and kind, as Markdown."""
    lines = [f"| part | kind | tried | {' | '.join(HEADINGS.values())} |", "|---|---|" + "---:|" * 8]
    total: Counter[str] = Counter()
    for part, outcomes in parts:
        counts: dict[str, Counter[str]] = {}
        for outcome in outcomes:
            counts.setdefault(outcome.kind, Counter()).update({"tried": outcome.tried, outcome.found: 1})
        for kind, count in sorted(counts.items()):
            total += count
            lines.append(_line(part, kind, count))
    return "\n".join([*lines, _line("all", "", total)])


def _line(part: str, kind: str, count: Counter[str]) -> str:
    return f"| {part} | {kind} | {' | '.join(f'{count[name]:,}' for name in ('tried', *HEADINGS))} |"
