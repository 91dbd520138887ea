"""What exporters share: what is compared, when it is equal enough, and the card that says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from json import dumps
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.data.builtin import neutral
from trimtab.errors import ExportError
from trimtab.model import LM, Layer, Row
from trimtab.model.generate import Sampling, decode
from trimtab.registry import describe
from trimtab.sites import RESID_POST
from trimtab.steering.gates import Always
from trimtab.steering.interventions import Intervention
from trimtab.steering.operators import Add

EXACT = 1e-4  # nats: largest difference of a log-probability that float32 leaves between two right computations
NOISY = 1.1  # times the difference that the engine has without any vector: a vector one block off has 1.15 and more
MISSING = 0.05  # of the effect, at most
SEEN = 2.0  # times the error: a vector that moves the model less proves nothing
PROBES, ANSWER = 4, 12  # prompts that are compared on, and tokens of the model's own answer to each

Logprobs = Float[Tensor, "s v"]
Steered = Callable[[], AbstractContextManager[Any]]  # within it, a model does what an export of it should do


@dataclass(frozen=True)
class Proof:
    """How near what an engine computes with an exported vector is to what `steer` computes, in nats of
    log-probability, over all tokens compared and the whole vocabulary.

    An engine that computes with the same numbers is held to the largest difference. One that computes with other ones
    (quantized arithmetic) is held to its own noise: the root mean square of what it makes of the vector less what the
    vector does here, against that of the difference it has without any vector.

    Attributes:
        engine: what loaded the export, with its version.
        norm: "largest", or "root mean square": of what error, noise and effect are.
        error: difference with the vector.
        noise: difference without any, as far as the engine was run without one.
        effect: what the vector does.
        share: how much of the effect is there, by least squares: 1 is all of it.
        tolerance: what the error was held to.
        tokens: at how many it was compared.
        greedy: share of these after which the engine finds the same next token most likely. Steered answers, decoded
            greedily, are among what is compared: at 1 the engine gives the same ones.
    """

    engine: str
    norm: str
    error: float
    noise: float
    effect: float
    share: float
    tolerance: float
    tokens: int
    greedy: float

    @property
    def equal(self) -> bool:
        """Whether the engine computes the same."""
        return self.error <= self.tolerance and abs(self.share - 1) <= MISSING

    @property
    def holds(self) -> bool:
        """Whether that proves anything: an effect that is lost in the noise does not."""
        return self.equal and self.effect > SEEN * self.error

    def __str__(self) -> str:
        noise = f", {self.noise:.2g} without any vector" if self.noise else ""
        return (
            f"{self.engine}: log-probabilities within {self.error:.2g} nats of trimtab's ({self.norm}{noise}) over "
            f"{self.tokens} tokens; {self.share:.1%} of the vector's effect, which is {self.effect:.2g}; the same "
            f"greedy choice after {self.greedy:.1%} of them"
        )


class Exporter:
    """A target. A leaf is a frozen dataclass with a name; its fields are flags of `trimtab export NAME`.

    Attributes:
        suffix: of the file it writes; "" for a folder.
    """

    suffix: ClassVar[str] = ""

    @property
    def name(self) -> str:
        return str(describe(self)["name"])

    def expressible(self, ivs: Sequence[Intervention]) -> None:
        """Refuse, before a model is loaded, what the target cannot express, or what it lacks.

        Raises:
            ExportError: what, and what to do instead.
        """
        raise NotImplementedError

    def check(self, lm: LM, ivs: Sequence[Intervention]) -> None:
        """Refuse, before anything is written, what the target cannot express for this model.

        Raises:
            ExportError: what, and what to do instead.
        """

    def write(self, lm: LM, ivs: Sequence[Intervention], path: Path) -> None:
        """Write the export to a file, or into an empty folder."""
        raise NotImplementedError

    def verify(self, lm: LM, ivs: Sequence[Intervention], path: Path) -> Proof:
        """Load what was written with the target's own code, and compare."""
        raise NotImplementedError

    def sign(self, path: Path, card: Mapping[str, Any]) -> None:
        """Keep the card (what was exported, and the proof) with the export: of a folder, in a file of its own."""
        (path / "trimtab.json").write_text(dumps(card, indent=1, sort_keys=True) + "\n", "utf-8")


def statement(lm: LM, ivs: Sequence[Intervention], exporter: Exporter, proof: Proof) -> dict[str, Any]:
    """What an export says of itself: what was exported, for which model, and the proof."""
    return {
        "target": describe(exporter),
        "model": lm.id,
        "weights": lm.weights,
        "interventions": [iv.describe() for iv in ivs],
        "proof": asdict(proof),
    }


# ------------------------------------------------------------ what can be expressed


def directions(ivs: Sequence[Intervention], target: str) -> dict[Layer, Float[Tensor, " d"]]:
    """What is added to the output of each block, at every token: for targets that can do nothing else.

    Raises:
        ExportError: an intervention that does something else.
    """
    out: dict[Layer, Tensor] = {}
    for iv in ivs:
        plainly(iv, target)
        if not_one_row(iv):
            raise ExportError(f"{target} adds a vector (d,), not a map", given=iv.vector, do="export it as a hook")
        if not isinstance(iv.operator, Add):
            raise ExportError(
                f"{target} can only add a vector",
                given=describe(iv.operator),
                expected="operator add",
                do="export it as a hook",
            )
        if str(iv.where) != "everywhere":
            raise ExportError(
                f"{target} steers every token, the prompt's too",
                given=f"positions {iv.where}",
                expected="positions everywhere",
                do="say --positions everywhere (`trimtab dose FILE --positions everywhere` measures what that does), "
                "or export it as a hook",
            )
        for layer, v in iv.vector.vectors.items():
            out[layer] = out.get(layer, torch.zeros_like(v)) + iv.multiplier * v
    return out


def plainly(iv: Intervention, target: str) -> None:
    """Refuse what no target but trimtab itself can express: gates, and the site of the embeddings.

    Raises:
        ExportError: which of them; or a vector that does nothing.
    """
    if not iv.multiplier or not any(iv.vector.norm().values()):
        raise ExportError("there is nothing to export", given=f"multiplier {iv.multiplier:g} of {iv.vector}")
    if not isinstance(iv.gate, Always):
        raise ExportError(f"{target} has no gates", given=iv.gate, expected="a vector that acts at every token alike")
    if iv.vector.site != RESID_POST:
        raise ExportError(f"{target} steers the outputs of blocks", given=iv.vector.site, expected=RESID_POST)


def not_one_row(iv: Intervention) -> bool:
    """Whether a vector is an affine map of rank 1 or more."""
    return any(v.ndim != 1 for v in iv.vector.vectors.values())


def slides(config: Any) -> bool:
    """Whether a model attends through a sliding window: Qwen names one and says apart whether it is used."""
    return getattr(config, "sliding_window", None) is not None and bool(getattr(config, "use_sliding_window", True))


# ------------------------------------------------------------ what is compared


def probes(lm: LM, steered: Steered) -> list[Row]:
    """Neutral prompts, each with the beginning of the model's own greedy answer: unsteered ones, then steered ones."""
    prompts = lm.rows(list(neutral())[:PROBES])
    rows = [_answered(lm, row) for row in prompts]
    with steered():
        return rows + [_answered(lm, row) for row in prompts]


def _answered(lm: LM, row: Row) -> Row:
    return decode(lm, lm.batch([row]), Sampling(ANSWER))[0]


def logprobs(lm: LM, rows: Sequence[Row]) -> list[Logprobs]:
    """Of every next token at every token of each row, by full passes."""
    return [lm.logits(lm.batch([row]))[0].log_softmax(-1).cpu() for row in rows]


def compared(
    lm: LM,
    steered: Steered,
    rows: Sequence[Row],
    theirs: Sequence[Logprobs],
    engine: str,
    *,
    unsteered: Sequence[Logprobs] | None = None,
    exact: bool = True,
) -> Proof:
    """Compare what an engine computed with what it should.

    Args:
        theirs: log-probabilities of the engine with the export, of the last tokens of each row.
        unsteered: of the engine without it, of as many tokens: its noise.
        exact: whether the engine computes with the same numbers; else the error is held to its noise.
    """
    plain = logprobs(lm, rows)
    with steered():
        ours = logprobs(lm, rows)
    # of each row what the engine gave: its last tokens, all rows in one
    given = torch.cat(list(theirs)).double()
    mine, before = (torch.cat([a[-len(b) :] for a, b in zip(x, theirs, strict=True)]).double() for x in (ours, plain))
    alone = before if unsteered is None else torch.cat(list(unsteered)).double()
    noise, effect, there = alone - before, mine - before, given - alone
    share = float((effect * there).sum() / effect.square().sum()) if effect.any() else float("nan")
    compared_on = (len(given), float((given.argmax(-1) == mine.argmax(-1)).double().mean()))
    if exact:
        sizes = (_largest(given - mine), _largest(noise), _largest(effect))
        return Proof(engine, "largest", *sizes, share, tolerance(lm.dtype), *compared_on)
    sizes = (_typical(there - effect), _typical(noise), _typical(effect))
    held = max(tolerance(lm.dtype), NOISY * sizes[1])
    return Proof(engine, "root mean square", *sizes, share, held, *compared_on)


def tolerance(dtype: torch.dtype) -> float:
    """What two right computations may differ by: rounding of the dtype, as the logits of a vocabulary show it."""
    return EXACT * max(1.0, torch.finfo(dtype).eps / torch.finfo(torch.float32).eps / 64)


def _largest(x: Tensor) -> float:
    return float(x.abs().max())


def _typical(x: Tensor) -> float:
    """Root mean square."""
    return float(x.square().mean().sqrt())
