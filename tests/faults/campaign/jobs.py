"""The jobs of a campaign, and the ledger in which they write down what is true."""

import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

#: Arguments: lines to print, seconds to sleep among them, exit code, ledger. A line of the ledger
#: is one write to a file opened for appending, so that lines of several jobs do not mix.
SCRIPT = """\
printf 'start %s %s %s\\n' "$LAUNCH_ITEM_ID" "$LAUNCH_ATTEMPT" "$$" >> "$4"
half=$(($1 / 2)); i=0
while [ $i -lt $1 ]; do
    i=$((i + 1)); echo "line $i of $1"
    if [ $i -eq $half ]; then sleep $2; fi
done
printf 'end %s %s %s %s\\n' "$LAUNCH_ITEM_ID" "$LAUNCH_ATTEMPT" "$$" "$3" >> "$4"
exit $3
"""
_PAUSES = ("0", "0", "0", "0.05", "0.3", "1", "3")
_LINES = (2, 20, 200, 2000)


@dataclass(frozen=True)
class Job:
    """What one item is submitted to do."""

    lines: int
    pause: str
    code: int
    on_lost: str
    #: Somebody stops it this many seconds after it was submitted.
    stopped_after: float | None

    @classmethod
    def draw(cls, chance: random.Random) -> "Job":
        """The next one of a seeded sequence."""
        return cls(
            lines=chance.choice(_LINES),
            pause=chance.choice(_PAUSES),
            code=chance.choice((0, 0, 0, chance.randint(1, 99))),
            on_lost=chance.choice(("fail", "retry")),
            stopped_after=chance.uniform(0, 2) if chance.random() < 0.03 else None,
        )

    def arguments(self, ledger: str) -> list[str]:
        """The script's arguments."""
        return [str(self.lines), self.pause, str(self.code), ledger]

    def log(self) -> list[str]:
        """What it prints."""
        return [f"line {number} of {self.lines}" for number in range(1, self.lines + 1)]


#: Item and attempt.
Key = tuple[str, int]


@dataclass
class Ledger:
    """What the jobs wrote: starts by attempt, exit codes by attempt."""

    starts: Counter[Key] = field(default_factory=Counter)
    ends: dict[Key, int] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Ledger":
        ledger = cls()
        for line in path.read_text().splitlines():
            kind, item, attempt, _, *code = line.split()
            if kind == "start":
                ledger.starts[item, int(attempt)] += 1
            else:
                ledger.ends[item, int(attempt)] = int(code[0])
        return ledger
