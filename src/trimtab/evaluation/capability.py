"""What a vector costs: knowledge (multiple choice, own or of lm-eval), truthfulness (MC1, MC2); how far the model
drifts from itself is `drift.py`.

run = capability(lm, iv, questions(), to="runs/cost")
print(accuracy(run.table("capability")))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from trimtab.data import truthful
from trimtab.data.formats import records
from trimtab.data.pairs import digest, group_of
from trimtab.data.truthful import holds_truths, truths
from trimtab.errors import DataError, RecipeError, UnknownName
from trimtab.model import LM, Row, in_pieces
from trimtab.progress import Progress
from trimtab.recipe import check_grid
from trimtab.runs import Cell, Run, Score, row
from trimtab.steering.interventions import Intervention, check_stack, steer
from trimtab.steering.multipliers import replays

KINDS = ("correct", "mc1", "mc2")  # ways of counting; the last two for truthful questions
BUILT_IN = {
    "knowledge": Path(str(files("trimtab") / "evaluation" / "capability.jsonl")),
    "truthful": truthful.FILE,
}
AT_ONCE = 8  # questions in a batch: fixed, so that a resumed run repeats the same arithmetic


@dataclass(frozen=True)
class Question:
    """A question with answers to choose from.

    Attributes:
        right: indices of the true ones; where several are, the first is the best.
        truthful: whether it asks for the truth (several true answers) rather than for knowledge (one).
    """

    subject: str
    text: str
    choices: tuple[str, ...]
    right: tuple[int, ...]
    truthful: bool = False

    def __post_init__(self) -> None:
        if len(set(self.choices)) < 2 or len(set(self.choices)) < len(self.choices) or not self.right:
            raise DataError(
                "not a multiple-choice question",
                given=self.text[:80],
                expected="two choices or more, all different, and a right one",
            )
        if not all(0 <= k < len(self.choices) for k in self.right):
            raise DataError(
                "the right answer is not among the choices",
                given=self.right,
                expected=f"indices from 0 to {len(self.choices) - 1}",
            )

    @property
    def id(self) -> str:
        return digest(self.text, *self.choices)

    @property
    def group(self) -> str:
        """Hash of what is asked, as pairs have it."""
        return group_of(self.text)


def questions(source: str | Path | None = None) -> tuple[Question, ...]:
    """Questions that come with trimtab, or those of a file.

    Args:
        source: "knowledge" (the default: 240 questions of eight school subjects), "truthful" (80 about what people get
            wrong), or a file: rows of `question, choices, answer` (an index; `subject` may be given), or one of the
            layouts of TruthfulQA (`data.truthful`).

    Raises:
        UnknownName: neither a file nor a set that comes with trimtab.
        DataError: no such file, or a malformed row, with its line.
    """
    name = str(source or "knowledge")
    if name not in BUILT_IN and not Path(name).suffix:
        raise UnknownName("set of questions", name, BUILT_IN, do="or give a file")
    path = BUILT_IN.get(name) or Path(name).expanduser()
    out = records(path, _question, "rows of question, choices and answer, or of question and mc2_targets")
    if not out:
        raise DataError(f"{path} holds no questions")
    return tuple(out)


def _question(table: Mapping[str, Any]) -> Question:
    if holds_truths(table):
        t = truths(table)
        return Question(t.category, t.question, (*t.right, *t.wrong), tuple(range(len(t.right))), truthful=True)
    return Question(table.get("subject", ""), table["question"], tuple(table["choices"]), (int(table["answer"]),))


def capability(
    lm: LM,
    iv: Intervention,
    items: Sequence[Question],
    *,
    to: str | Path,
    multipliers: Sequence[float] = (-2.0, -1.0, 0.0, 1.0, 2.0),
    name: str = "vector",
    part: str = "capability",
    progress: Progress | None = None,
) -> Run:
    """Ask questions at every multiplier, by the likelihood of each choice as the answer. Append-only; the same call
    resumes.

    Scores per item: "correct" (the choice of highest log-probability per token is right), "mc1" (by summed
    log-probability, the best right choice is likelier than every wrong one; Lin et al. 2022), "mc2" (share of the
    choices' probability that is on right ones).

    Args:
        name: of the condition in the run's table; call again with another vector and name to measure it beside.

    Raises:
        TokenError: a question longer than the context.
        RunError: the folder holds another run.
    """
    check_grid(multipliers)
    check_stack(lm, iv)
    run = Run.create(to)
    plan = {"model": lm.facts, "items": digest(*(q.id for q in items)), "multipliers": list(multipliers)}
    run.claim(f"{part}.{name}", {**plan, "iv": iv.describe()})
    rows = [_choice_rows(lm, q) for q in items]
    order = sorted(range(len(items)), key=lambda k: max(len(r.ids) for r in rows[k]))
    chunks = in_pieces(order, AT_ONCE)
    journal = run.journal(part)
    for k, chunk in enumerate(chunks):
        if f"{name}/{k}" not in journal.done:
            scores = _choices(lm, iv, [(items[j], rows[j]) for j in chunk], multipliers)
            journal.append(
                f"{name}/{k}",
                [row(Cell(kind, name, None, m), Score(item, value, "share")) for kind, m, item, value in scores],
            )
        if progress:
            progress(k + 1, len(chunks))
    return run


def _choice_rows(lm: LM, question: Question) -> list[Row]:
    """A question with each of its choices as the answer."""
    return [lm.row(question.text, c) for c in question.choices]


@torch.no_grad()
def _choices(
    lm: LM, iv: Intervention, pairs: Sequence[tuple[Question, Sequence[Row]]], multipliers: Sequence[float]
) -> list[tuple[str, float, str, float]]:
    if len(pairs) > 1 and not lm.together([r for _, rows in pairs for r in rows]):
        return [score for one in pairs for score in _choices(lm, iv, [one], multipliers)]
    tokens = lm.batch([r for _, rows in pairs for r in rows])
    keep = list(range(tokens.pivot - 1, tokens.ids.shape[1] - 1))
    ids = tokens.ids[:, tokens.pivot :, None]
    there = tokens.index[:, tokens.pivot :] >= 0
    out: list[tuple[str, float, str, float]] = []
    for m, logits in replays(lm, iv, tokens, keep, multipliers):
        logp = (logits.gather(-1, ids)[..., 0] - logits.logsumexp(-1)).masked_fill(~there, 0.0)
        total, length, at = logp.sum(-1).double().cpu(), there.sum(-1).cpu(), 0
        for question, rows in pairs:
            mine = slice(at, at + len(rows))
            at += len(rows)
            right = list(question.right)
            mean, whole = total[mine] / length[mine], total[mine]
            wrong = [k for k in range(len(rows)) if k not in right]
            out += [
                ("correct", m, question.id, float(int(mean.argmax()) in right)),
                ("mc1", m, question.id, float(all(whole[right[0]] > whole[k] for k in wrong))),
                ("mc2", m, question.id, float(whole.softmax(-1)[right].sum())),
            ]
    return out


def harness(
    lm: LM,
    iv: Intervention | None,
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    folder: str | Path | None = None,
    batch: int = 8,
) -> dict[str, Any]:
    """Results of lm-eval tasks on the steered model (`pip install 'trimtab[eval]'`); hub data sets need a connection,
    local task files do not.

    Args:
        iv: None for the unsteered model.
        tasks: names lm-eval knows, such as "mmlu", or those of task files in `folder`.

    Returns:
        lm-eval's results by task; each with its samples under "samples", so that two multipliers can be compared item
        by item.
    """
    try:
        evaluator, adapter, local = (
            import_module(f"lm_eval.{name}") for name in ("evaluator", "models.huggingface", "tasks")
        )
    except ImportError as missing:
        raise RecipeError("lm-eval is not installed", given=str(missing), do="pip install 'trimtab[eval]'") from missing
    model = adapter.HFLM(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=batch)
    manager = local.TaskManager(include_path=str(folder), include_defaults=False) if folder else None

    def evaluate() -> Any:
        return evaluator.simple_evaluate(
            model=model, tasks=list(tasks), limit=limit, task_manager=manager, log_samples=True, bootstrap_iters=0
        )

    if iv is None:
        report = evaluate()
    else:
        with steer(lm, iv):
            report = evaluate()
    return {task: {**report["results"][task], "samples": report["samples"].get(task, [])} for task in report["results"]}


def harness_scores(
    lm: LM,
    iv: Intervention,
    tasks: Sequence[str],
    run: Run,
    *,
    multipliers: Sequence[float] = (-1.0, 0.0, 1.0),
    name: str = "vector",
    limit: int | None = None,
    folder: str | Path | None = None,
    progress: Progress | None = None,
) -> None:
    """Tasks of lm-eval at every multiplier, as scores per document in the part "tasks" of a run: whether its answer is
    right (`acc` or `exact_match`), so that two multipliers are compared document by document. Resumable.

    Raises:
        RecipeError: lm-eval is not installed; a task that scores no document as right or wrong.
    """
    check_grid(multipliers)
    plan = {"model": lm.facts, "tasks": list(tasks), "limit": limit, "multipliers": list(multipliers)}
    run.claim(f"tasks.{name}", {**plan, "iv": iv.describe()})
    journal = run.journal("tasks")
    for k, m in enumerate(multipliers):
        if f"{name}/{m:g}" not in journal.done:
            results = harness(lm, iv.times(m) if m else None, tasks, limit=limit, folder=folder)
            lines = [
                row(Cell(task, name, None, m), Score(item, value, "share"))
                for task, found in results.items()
                for item, value in _right(task, found["samples"])
            ]
            journal.append(f"{name}/{m:g}", lines)
        if progress:
            progress(k + 1, len(multipliers))


def _right(task: str, samples: Sequence[Mapping[str, Any]]) -> list[tuple[str, float]]:
    """Documents of a task, and whether each was answered right.

    Raises:
        RecipeError: nothing says so.
    """
    out: list[tuple[str, float]] = []
    for sample in samples:
        key = next((k for k in ("acc", "exact_match") if k in sample), None)
        if key is None:
            raise RecipeError(
                f"the task {task} does not say which documents are right",
                given=sorted(sample),
                expected="acc, or exact_match",
            )
        out.append((str(sample["doc_hash"]), float(sample[key])))
    return out
