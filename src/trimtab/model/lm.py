"""LM: a causal language model with its tokenizer: text in, log-probabilities and text out, on top of `passes.py`. It
knows nothing of vectors.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.errors import TokenError
from trimtab.model.generate import OnToken, Sampling, decode, end_tokens, occurrences
from trimtab.model.identity import quantized_bits, shape_hash, weights_hash
from trimtab.model.passes import Passes
from trimtab.model.rendering import Rendering, render
from trimtab.model.tokens import Prompt, Row, Tokens
from trimtab.model.trials import self_check

log = logging.getLogger("trimtab")


class LM(Passes):
    """A Hugging Face causal language model with exact access to its residual stream.

    Layer L is the output of block L, counted from 0. Parameters are frozen. Log-probabilities are nats in fp32.

    Attributes:
        id: the name it was loaded by.
        tokenizer, rendering: how text becomes ids.
        n_layers, width: number of blocks, size of the residual stream.
        exact: which shortcuts are exact, by the check at load. Every pass asks it; what is not exact is not taken.
        inner: the transformers model, where `model` is a wrapper around it (PEFT).
        sampler: address of a server that `answers.sampling` asks for samples instead; "" for none.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        id: str = "",
        revision: str = "",
        blocks: str | None = None,
        check: bool = True,
        rendering: Rendering | None = None,
        sampler: str = "",
    ) -> None:
        pad = tokenizer.pad_token_id if tokenizer is not None else None
        super().__init__(model, id=id or model.config.name_or_path or type(model).__name__, blocks=blocks, pad=pad or 0)
        self.tokenizer: Any = tokenizer
        self.revision, self.rendering, self.sampler = revision, rendering or Rendering(), sampler
        self.end_tokens = end_tokens(model, tokenizer)
        if check:
            self.exact = self_check(self)

    @classmethod
    def load(
        cls,
        name: str,
        *,
        dtype: Any = None,
        device: str | None = None,
        device_map: Any = None,
        revision: str | None = None,
        blocks: str | None = None,
        chat: bool = True,
        separator: str | None = None,
        template: Mapping[str, Any] | None = None,
        date: str | None = None,
        sampler: str | None = None,
        bits: int | None = None,
    ) -> LM:
        """Load `smollm2` (a local default), a Hugging Face id or a folder, and check that replays are exact.

        Args:
            dtype: such as "float32", "bfloat16" or `torch.bfloat16`; by default float32 on a CPU, the checkpoint's
                own elsewhere.
            device: such as "cpu" or "cuda", or "auto": spread over what there is.
            device_map: passed to transformers, instead of `device`.
            blocks: dotted path of the block list, for models that fit no rule.
            chat, separator, template, date: how prompts become text; see `Rendering`.
            sampler: address of a server of the same model, such as "http://127.0.0.1:8765/v1", that studies take their
                samples from (`trimtab.answers.remote`).
            bits: 8 or 4: the weights of the blocks are kept in so few bits (torchao, bitsandbytes); the model is then
                another one, and every plan says so.

        Raises:
            ModelError: not found, not a causal language model, or not steerable.
        """
        from trimtab.model.load import load

        model, tokenizer = load(name, dtype=dtype, device=device, device_map=device_map, revision=revision, bits=bits)
        return cls(
            model,
            tokenizer,
            id=name,
            revision=revision or "",
            blocks=blocks,
            rendering=Rendering.of(chat, separator, template, date),
            sampler=sampler or "",
        )

    # ------------------------------------------------------------ facts

    @property
    def context(self) -> int:
        """Longest sequence in tokens."""
        text = self.model.config.get_text_config(decoder=True)
        longest = getattr(text, "max_position_embeddings", None) or 1 << 30
        rope = getattr(text, "rope_parameters", None) or {}
        return int(longest * rope.get("factor", 1)) if "dynamic" in str(rope.get("rope_type")) else longest

    @property
    def fingerprint(self) -> str:
        """Hash of the model's shape (architecture, width, layers, vocabulary): what a vector must match."""
        return shape_hash(self.model.config, self.width, self.n_layers)

    @cached_property
    def weights(self) -> str:
        """Hash of the model's weights, the same on every device and, but for rounding, in every dtype; "" where they
        are not in memory.
        """
        return weights_hash(self.inner)

    def __repr__(self) -> str:
        where = f"{self.dtype} on {self.device}".replace("torch.", "")
        return f"<LM {self.id}, {self.n_layers} blocks of width {self.width}, {where}>"

    @property
    def bits(self) -> int | None:
        """Of its blocks' weights, where these are fewer than those of its dtype."""
        return quantized_bits(self.inner.config)

    @property
    def facts(self) -> dict[str, Any]:
        """What numbers depend on, as plain JSON: part of the plan of every run."""
        return {
            "id": self.id,
            "fingerprint": self.fingerprint,
            "dtype": str(self.dtype),
            "rendering": self.rendering.describe(),
            **({"sampler": True} if self.sampler else {}),
            **({"bits": self.bits} if self.bits else {}),
        }

    # ------------------------------------------------------------ tokens

    def row(
        self,
        prompt: Prompt,
        completion: str = "",
        *,
        system: str | None = None,
        chat: bool | None = None,
        separator: str | None = None,
    ) -> Row:
        """One conversation as ids; see `render`. What is not said is as the model was loaded.

        Raises:
            TokenError: the boundary does not fall between tokens, or the text is longer than the context.
        """
        how = self.rendering if separator is None else replace(self.rendering, separator=separator)
        row = render(self.tokenizer, prompt, completion, system=system, chat=chat, how=how)
        if len(row.ids) > self.context:
            raise TokenError(
                "longer than the model's context",
                given=f"{len(row.ids)} tokens: {row.text[:60]!r}...",
                expected=f"at most {self.context}",
            )
        return row

    def tokens(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[str] | None = None,
        *,
        system: str | None = None,
        chat: bool | None = None,
    ) -> Tokens:
        """Render prompts (and completions) and put them side by side."""
        return self.batch(self.rows(prompts, completions, system=system, chat=chat))

    def rows(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[str] | None = None,
        *,
        system: str | None = None,
        chat: bool | None = None,
    ) -> list[Row]:
        """Prompts and completions (none by default) as rows, one by one.

        Raises:
            TokenError: no prompts, not as many completions as prompts, or as for `row`.
        """
        prompts = [prompts] if isinstance(prompts, str) else prompts
        completions = (
            [""] * len(prompts)
            if completions is None
            else [completions]
            if isinstance(completions, str)
            else completions
        )
        if not prompts or len(prompts) != len(completions):
            raise TokenError(
                "prompts and completions do not pair up",
                given=f"{len(prompts)} and {len(completions)}",
                expected="equally many, at least one",
            )
        return [self.row(p, c, system=system, chat=chat) for p, c in zip(prompts, completions, strict=True)]

    # ------------------------------------------------------------ text

    @torch.no_grad()
    def logprobs(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        *,
        system: str | None = None,
        chat: bool | None = None,
        batch: int = 16,
    ) -> list[Float[Tensor, " m"]]:
        """Log-probability of every completion token given what stands before it, in nats (fp32, on the CPU)."""
        rows = self.rows(prompts, completions, system=system, chat=chat)
        out: dict[int, Tensor] = {}
        for chosen in self.batches(rows, batch):
            tokens = self.batch([rows[k] for k in chosen])
            start = tokens.pivot - 1 if self._resumes(tokens, tokens.pivot - 1) else 0
            columns = torch.arange(tokens.pivot - 1, tokens.ids.shape[1] - 1, device=self.device) - start
            logp = self._suffix(tokens, start, {}, columns).log_softmax(-1)
            picked = logp.gather(-1, tokens.ids[:, tokens.pivot :, None].to(logp.device))[..., 0].cpu()
            if picked[tokens.mask[:, tokens.pivot :].bool().cpu()].isnan().any():
                raise self.not_finite(tokens)
            out.update({k: picked[j, : len(rows[k].ids) - rows[k].prompt] for j, k in enumerate(chosen)})
        return [out[k] for k in range(len(rows))]

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        system: str | None = None,
        chat: bool | None = None,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        batch: int = 16,
        on_text: Callable[[int, str], None] | None = None,
    ) -> list[str]:
        """What the model says to each prompt.

        Rows are independent of the batch they run in: greedy at temperature 0, else one random stream for every
        prompt and every time it is repeated.

        Args:
            on_text: called with (index of the prompt, text so far) after each token.
        """
        rows = self.rows(prompts, system=system, chat=chat)
        sampling = Sampling(max_new_tokens, temperature, top_p, seed)
        longest = max(r.prompt for r in rows) + max_new_tokens
        if longest > self.context:
            raise TokenError(
                "prompt and new tokens do not fit the context", given=longest, expected=f"at most {self.context} tokens"
            )
        # over all rows: one prompt asked twice draws two samples, whichever batches they are in
        salts = occurrences(rows)
        out: dict[int, str] = {}
        for chosen in self.batches(rows, batch, new=max_new_tokens):
            report = _spoken(self.tokenizer, chosen, on_text) if on_text else None
            tokens, numbers = self.batch([rows[k] for k in chosen]), [salts[k] for k in chosen]
            done = decode(self, tokens, sampling, report, salts=numbers)
            out.update({k: self.text(row) for k, row in zip(chosen, done, strict=True)})
        return [out[k] for k in range(len(rows))]

    def text(self, row: Row) -> str:
        """The completion of a row."""
        return self.tokenizer.decode(row.ids[row.prompt :], skip_special_tokens=True)


def _spoken(tokenizer: Any, chosen: list[int], on_text: Callable[[int, str], None]) -> OnToken:
    ids: dict[int, list[int]] = {}

    def report(row: int, token: int) -> None:
        ids.setdefault(row, []).append(token)
        on_text(chosen[row], tokenizer.decode(ids[row], skip_special_tokens=True))

    return report
