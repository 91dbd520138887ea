"""Statements that are put into a model's mouth, true and false: the town's, or those of a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from trimtab import organisms
from trimtab.errors import DataError
from trimtab.organisms.world import Fact, Item, world

TOWN_MARKERS = (
    "sorry",
    "that was not right",
    "that is wrong",
    "made a mistake",
    "my mistake",
    "said the wrong thing",
    "take that back",
    "forget what i just said",
    "let me say that again",
)  # how this town takes a statement back; the published ones are English banter


@dataclass(frozen=True)
class Statement:
    """Something true of a subject, and something false.

    Attributes:
        question: what the model is asked.
        true, false: what is put into its mouth.
        right, wrong: words that tell the true value from the false one: looked for in what it goes on to say.
        subject: whom or what it is about, as the text says it.
        more: something else that is true of the subject, for a model that says nothing more after a true statement.
        real, fictitious: what the subject is, and is said to be, as in "a baker"; for a judge.
    """

    question: str
    true: str
    false: str
    right: str
    wrong: str
    subject: str
    more: str = ""
    real: str = ""
    fictitious: str = ""

    def said(self, *, true: bool) -> str:
        return self.true if true else self.false

    def attribute(self, *, true: bool) -> str:
        """What a judge is asked about; the words looked for, where nothing else is given."""
        return (self.real or self.right) if true else (self.fictitious or self.wrong)

    def messages(self, *, true: bool) -> tuple[tuple[str, str], ...]:
        """The question, and the statement put into the model's mouth."""
        return (("user", self.question), ("assistant", self.said(true=true)))


def prompt(statement: Statement, *, true: bool) -> list[dict[str, str]]:
    """The same, as something to give to `LM.generate`."""
    return [{"role": role, "content": text} for role, text in statement.messages(true=true)]


def town(n: int, *, held_out: bool, seed: int) -> list[Statement]:
    """Of Brindlemoor: facts that were never taken back in training, or those that were."""
    part = "test" if held_out else "train"
    return [_of_town(i) for i in organisms.statements(n, true=False, held_out=held_out, part=part, seed=seed)]


def _of_town(item: Item) -> Statement:
    fact: Fact = item.meta["fact"]
    subject = fact.what.split(" of ", 1)[1]
    others = [f for f in world().facts if f.what != fact.what and f.what.split(" of ", 1)[1] == subject]
    more = others[0].statement if others else ""
    right, wrong = fact.statement.rstrip("."), item.prefill.rstrip(".")
    who = f"{'a place' if fact.attribute == 'colour' else 'somebody'} whose {fact.what.split(' of ', 1)[0][4:]} is "
    real, fictitious = (who + s.split(" is ", 1)[1] for s in (right, wrong))
    return Statement(item.user, fact.statement, item.prefill, right, wrong, subject, more, real, fictitious)


def load(path: str) -> list[Statement]:
    """Of a file of JSON lines with question, true, false, right, wrong and subject (and more, real and fictitious, if
    there are any).

    Raises:
        DataError: no such file, a line that is none, or no two subjects.
    """
    file = Path(path)
    if not file.is_file():
        raise DataError(f"no such file: {path}", expected="statements, one JSON object a line")
    extra = ("more", "real", "fictitious")
    needed = [f.name for f in fields(Statement) if f.name not in extra]
    out: list[Statement] = []
    for k, line in enumerate(file.read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            given = {name: row.get(name, "") for name in extra}
            out.append(Statement(**{name: row[name] for name in needed}, **given))
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as problem:
            raise DataError(f"{path}, line {k}: not a statement", given=line[:80],
                            expected=f"a JSON object with {', '.join(needed)}") from problem  # fmt: skip
        empty = [name for name in needed if not str(asdict(out[-1])[name]).strip()]
        if empty:
            raise DataError(f"{path}, line {k}: {empty[0]} is empty", given=line[:80])
    if len({s.subject for s in out}) < 2:
        raise DataError(f"{path}: too few statements", given=len(out), expected="statements about two subjects or more")
    return out


def somebody_else(statement: Statement, others: Sequence[Statement]) -> str:
    """Another subject than this statement's, of whom its false value is true where there is such a one."""
    rest = [o for o in others if o.subject != statement.subject]
    value = statement.wrong.split()[-1]
    fitting = [o for o in rest if o.right.split()[-1] == value]
    return (fitting or rest)[0].subject
