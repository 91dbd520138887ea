"""A low-rank adapter trained on preferences (LoRA by DPO: the baseline of Cao et al. 2024, appendix D) or on positive
answers alone (fine-tuning, the baseline of Rimsky et al. 2024), whose strength can be turned like a vector's. Needs the
extra `peft`.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.data.pairs import Pair
from trimtab.errors import RecipeError
from trimtab.journal import whole
from trimtab.methods.contrast import paired_rows
from trimtab.model import LM, Row
from trimtab.model.rendering import as_prompt
from trimtab.progress import Progress


@dataclass(frozen=True)
class Lora:
    """How an adapter is made and trained.

    Attributes:
        rank, alpha: of the two low-rank factors; their product counts alpha / rank times.
        dropout: in front of them, in training.
        targets: modules that get one, by the end of their name.
        rate, decay: of AdamW. Cosine schedule after a linear warm-up.
        warm: steps of the warm-up; a tenth of all steps at most.
        batch: pairs a step.
        epochs: over the pairs.
        beta: of the preference loss.
        answers: learn to say the positive answers (their mean -log p per token), not to prefer them.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.05
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    rate: float = 2e-4
    decay: float = 0.05
    warm: int = 100
    batch: int = 4
    epochs: int = 2
    beta: float = 0.1
    answers: bool = False


class Adapted:
    """A copy of a model with an adapter, and the strength at which it acts.

    Attributes:
        lm: the adapted copy; at strength 0 it is the model it was copied from.
    """

    def __init__(self, lm: LM, how: Lora, seed: int = 0) -> None:
        """
        Raises:
            RecipeError: peft is not installed, or the model has no such modules.
        """
        try:
            peft = import_module("peft")
        except ImportError as missing:
            raise RecipeError(
                "peft is not installed", given=str(missing), do="pip install 'trimtab[peft]'"
            ) from missing
        torch.manual_seed(seed)
        settings = peft.LoraConfig(
            r=how.rank, lora_alpha=how.alpha, lora_dropout=how.dropout, target_modules=list(how.targets)
        )
        model = copy.deepcopy(lm.model)
        try:
            peft.inject_adapter_in_model(settings, model)
        except ValueError as problem:
            raise RecipeError(
                f"{lm.id} cannot have this adapter", given=how.targets, expected=str(problem)
            ) from problem
        self.how, self.seed = how, seed
        self.layers = [m for m in model.modules() if isinstance(m, peft.tuners.lora.LoraLayer)]
        self.unit = how.alpha / how.rank
        self.lm = LM(model.eval(), lm.tokenizer, id=f"{lm.id} with an adapter", rendering=lm.rendering, check=False)

    @property
    def trainable(self) -> dict[str, Tensor]:
        """The adapter's own parameters, by name."""
        return {n: p for n, p in self.lm.model.named_parameters() if "lora_" in n}

    def at(self, strength: float) -> LM:
        """The model with the adapter at a strength: 1 as trained, 0 not at all, -1 its opposite."""
        for layer in self.layers:
            layer.scaling["default"] = strength * self.unit
        return self.lm

    def margins(self, pairs: Sequence[Pair], strength: float) -> Float[Tensor, " n"]:
        """Log-probability of the positive answer less the negative's, in nats, at a strength."""
        lm = self.at(strength)
        sums = [
            torch.stack([x.sum() for x in lm.logprobs([as_prompt(p.asked) for p in pairs], answers)])
            for answers in ([p.positive for p in pairs], [p.negative for p in pairs])
        ]
        return sums[0] - sums[1]

    def trained(self, pairs: Sequence[Pair], file: Path, progress: Progress) -> None:
        """Train it on preferences, once: the adapter is read back where its file is there.

        The loss is -log sigmoid(beta * (margin less the unadapted model's margin)), the mean over a batch; or -log p of
        the positive answer's tokens.
        """
        if not file.is_file():
            self._train(pairs, progress)
            file.parent.mkdir(parents=True, exist_ok=True)
            with whole(file) as aside:
                safetensors.torch.save_file({n: p.detach().contiguous() for n, p in self.trainable.items()}, aside)
        known = safetensors.torch.load_file(file)
        with torch.no_grad():
            for name, p in self.trainable.items():
                p.copy_(known[name])

    def _train(self, pairs: Sequence[Pair], progress: Progress) -> None:
        how, rng = self.how, random.Random(self.seed)
        reference = torch.zeros(len(pairs)) if how.answers else self.margins(pairs, 0.0)
        self.at(1.0)
        rows = [paired_rows(self.lm, p) for p in pairs]
        each = math.ceil(len(pairs) / how.batch)
        steps, warm = each * how.epochs, min(how.warm, max(1, each * how.epochs // 10))
        for p in self.trainable.values():
            p.requires_grad_(True)
        optimizer = torch.optim.AdamW(self.trainable.values(), how.rate, weight_decay=how.decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: _rate(k, warm, steps))
        self._dropout(True)
        order: list[int] = []
        for step in range(steps):
            if step % each == 0:
                order = rng.sample(range(len(pairs)), len(pairs))
            chosen = order[(step % each) * how.batch : (step % each + 1) * how.batch]
            loss = self._loss([rows[k] for k in chosen], reference[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            progress(step + 1, steps)
        self._dropout(False)
        for p in self.trainable.values():
            p.requires_grad_(False)

    def _dropout(self, on: bool) -> None:
        for layer in self.layers:
            layer.lora_dropout.train(on)

    def _loss(self, pairs: Sequence[tuple[Row, Row]], reference: Float[Tensor, " n"]) -> Tensor:
        """Of a batch, with a graph."""
        if self.how.answers:
            sums = self._said([row for row, _ in pairs])
            return -(sums / torch.tensor([len(r.ids) - r.prompt for r, _ in pairs]).to(sums)).mean()
        wanted = self.how.beta * (self._margin(pairs) - reference.to(self.lm.device))
        return -torch.nn.functional.logsigmoid(wanted).mean()

    def _margin(self, pairs: Sequence[tuple[Row, Row]]) -> Float[Tensor, " n"]:
        """With a graph, in one padded pass."""
        sums = self._said([row for pair in pairs for row in pair])
        return sums[0::2] - sums[1::2]

    def _said(self, rows: Sequence[Row]) -> Float[Tensor, " n"]:
        """Summed log-probability of what each row says, with a graph."""
        width = max(len(r.ids) for r in rows)
        ids = torch.tensor([[*r.ids, *[self.lm.pad] * (width - len(r.ids))] for r in rows], device=self.lm.device)
        mask = torch.tensor([[1] * len(r.ids) + [0] * (width - len(r.ids)) for r in rows], device=self.lm.device)
        logits = self.lm.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
        logp = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        places = torch.arange(1, width, device=self.lm.device)
        answers = torch.stack([(places >= r.prompt) & (places < len(r.ids)) for r in rows])
        return (logp * answers).sum(-1)


def _rate(step: int, warm: int, steps: int) -> float:
    """Share of the rate: a linear warm-up, then half a cosine down to 0."""
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
