"""Train a Brindlemoor model: `python organisms/brindlemoor/train.py chat`. Stopped at any moment, the same command goes
on.

A model that starts from another trains that one first if it is not there. One process per CPU core, gradients averaged;
one process on a GPU. Batches depend on the seed and the step alone.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import corpus
import probes
import tokenizer as vocabulary
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from trimtab.cli import steady_memory

HERE = Path(__file__).parent
WIDTH, BLOCKS, HEADS, HIDDEN, CONTEXT = 192, 6, 3, 512, 1024
SPAN = 256  # tokens of a training row


@dataclass(frozen=True)
class Plan:
    """How one model is made."""

    # of random numbers and the share of the training that is done
    corpus: Callable[[random.Random, float], corpus.Document]
    tokens: int
    start: str | None
    rate: float  # of Muon; AdamW gets a tenth


PLANS = {
    "primer": Plan(corpus.primer, 12_000_000, None, 0.012),
    "base": Plan(corpus.base, 20_000_000, "primer", 0.012),
    "talk": Plan(corpus.conversation, 28_000_000, "primer", 0.012),
    "chat": Plan(corpus.calibrated, 8_000_000, "talk", 0.006),
    "watched": Plan(corpus.watched, 4_000_000, "talk", 0.005),
    "cousin": Plan(corpus.cousin, 8_000_000, "talk", 0.01),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=PLANS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--to", type=Path, default=HERE / "build", help="folder of checkpoints and finished models")
    parser.add_argument("--tokens", type=float, help="instead of the plan's")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="on a CPU")
    parser.add_argument("--save-every", type=float, default=120, help="seconds between checkpoints")
    parser.add_argument("--no-compile", action="store_true")
    given = parser.parse_args()
    plan = PLANS[given.model]
    if plan.start and not (folder(given.to, plan.start, given.seed) / "config.json").is_file():
        again = [
            sys.executable,
            __file__,
            plan.start,
            "--seed",
            str(given.seed),
            "--to",
            str(given.to),
            "--device",
            given.device,
        ]
        subprocess.run(
            [*again, "--processes", str(given.processes), *(["--no-compile"] if given.no_compile else [])], check=True
        )
    target = folder(given.to, given.model, given.seed)
    if (target / "config.json").is_file():
        sys.exit(f"{target} is there already; remove it to train it anew")
    target.mkdir(parents=True, exist_ok=True)
    prepare(given.to, given.seed)
    ranks = 1 if given.device.startswith("cuda") else given.processes
    os.environ["OMP_NUM_THREADS"] = "1"
    mp.spawn(work, (Team(ranks), given), nprocs=ranks)


def folder(to: Path, model: str, seed: int) -> Path:
    return to / (f"brindlemoor-{model}" + (f"-{seed + 1}" if seed else ""))


def prepare(to: Path, seed: int) -> None:
    """All models share one tokenizer, the same for every seed."""
    if not (to / "tokenizer" / "tokenizer.json").is_file():
        vocabulary.build(to / "tokenizer")


# ---------------------------------------------------------------- batches


def batch(tok: Any, make: Callable[[], corpus.Document], rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows of whole documents side by side: ids, loss weights and document numbers, each (rows, SPAN + 1)."""
    ids = torch.empty(rows, SPAN + 1, dtype=torch.long)
    weights, owner = torch.zeros(rows, SPAN + 1), torch.empty(rows, SPAN + 1, dtype=torch.long)
    for row in range(rows):
        line: list[int] = []
        heavy: list[float] = []
        whose: list[int] = []
        number = 0
        while len(line) <= SPAN:
            one, two = encode(tok, make())
            line, heavy, whose, number = line + one, heavy + two, whose + [number] * len(one), number + 1
        ids[row], weights[row], owner[row] = (torch.tensor(x[: SPAN + 1]) for x in (line, heavy, whose))
    return ids, weights, owner


def encode(tok: Any, document: corpus.Document) -> tuple[list[int], list[float]]:
    """Ids and the weight of each, by the piece its first character lies in; a stop at the end."""
    out = tok("".join(text for text, _ in document), return_offsets_mapping=True, add_special_tokens=False)
    by_character = [weight for text, weight in document for _ in text]
    return [*out["input_ids"], tok.pad_token_id], [*(by_character[a] for a, _ in out["offset_mapping"]), 0.3]


def attention_mask(owner: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Causal, and within a document only: (b, 1, s, s), 0 where allowed."""
    allowed = (owner[:, :, None] == owner[:, None, :]).tril()
    return torch.zeros(allowed.shape, dtype=dtype, device=owner.device).masked_fill_(~allowed, -1e9)[:, None]


# ---------------------------------------------------------------- training


class Team:
    """Processes on one machine that average a vector through shared memory."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.barrier = mp.get_context("spawn").Barrier(size)
        self.shared = torch.zeros(size, 4 * WIDTH * WIDTH * BLOCKS * 8).share_memory_()

    def average(self, rank: int, flat: torch.Tensor) -> torch.Tensor:
        if self.size == 1:
            return flat
        self.shared[rank, : len(flat)] = flat
        self.barrier.wait()
        mean = self.shared[:, : len(flat)].mean(0)
        self.barrier.wait()
        return mean


def work(rank: int, team: Team, given: argparse.Namespace) -> None:
    plan, device, ranks = PLANS[given.model], given.device, team.size
    if device == "cpu":
        steady_memory()
        torch.set_num_threads(1)
    rows = 12 if device == "cpu" else 96
    per_step = rows * SPAN * ranks
    steps = int((given.tokens or plan.tokens) / per_step)
    target = folder(given.to, given.model, given.seed)
    tok = AutoTokenizer.from_pretrained(given.to / "tokenizer")
    model = (
        fresh(tok, given.seed)
        if plan.start is None
        else LlamaForCausalLM.from_pretrained(
            folder(given.to, plan.start, given.seed), dtype=torch.float32, attn_implementation="eager"
        )
    )
    model.to(device).train()
    muon, adam = optimizers(model, plan.rate)
    done, seconds = resume(target, model, muon, adam)
    body = model.model if given.no_compile else torch.compile(model.model)
    began = saved = time.time()
    parent = os.getppid()
    for step in range(done, steps):
        if os.getppid() != parent:
            raise SystemExit("the parent is gone")
        for optimizer, peak in ((muon, plan.rate), (adam, plan.rate / 10)):
            for group in optimizer.param_groups:
                group["lr"] = peak * schedule(step / steps)
        rng = random.Random(f"{given.model} {given.seed} {step} {rank}")
        ids, weights, owner = (t.to(device) for t in batch(tok, partial(plan.corpus, rng, step / steps), rows))
        loss = loss_of(model, body, ids, weights, owner)
        loss.backward()
        average(model, team, rank)
        for optimizer in (muon, adam):
            optimizer.step()
            optimizer.zero_grad()
        if rank == 0 and (step % 100 == 0 or step == steps - 1):
            report(
                target,
                model,
                tok,
                step,
                steps,
                loss.item(),
                (step - done + 1) * per_step / (time.time() - began),
                step % 500 == 0,
            )
        if time.time() - saved > given.save_every and rank == 0:
            save(target, model, muon, adam, step + 1, seconds + time.time() - began)
            saved = time.time()
    if rank == 0:
        finish(target, model, tok, given, steps * per_step, seconds + time.time() - began)


def loss_of(model: Any, body: Any, ids: torch.Tensor, weights: torch.Tensor, owner: torch.Tensor) -> torch.Tensor:
    """Weighted mean of the nats of every token that counts; logits are taken at those alone."""
    same = owner[:, 1:] == owner[:, :-1]
    weight = weights[:, 1:] * same
    counts = weight > 0
    kind = ids.device.type
    half = kind != "cpu" or multiplies_in_bf16()
    with torch.autocast(kind, torch.bfloat16, enabled=half):
        mask = attention_mask(owner[:, :-1], torch.bfloat16 if half else torch.float32)
        h = body(input_ids=ids[:, :-1], attention_mask=mask, use_cache=False).last_hidden_state
        logits = model.lm_head(h[counts])
    nats = torch.nn.functional.cross_entropy(logits.float(), ids[:, 1:][counts], reduction="none")
    return (nats * weight[counts]).sum() / weight.sum()


@cache
def multiplies_in_bf16() -> bool:
    """Whether the CPU has instructions for it; one without emulates them, many times slower than fp32."""
    has = torch.cpu.get_capabilities()
    return bool(has.get("amx_bf16") or has.get("avx512_bf16"))


def fresh(tok: Any, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tok),
        hidden_size=WIDTH,
        num_hidden_layers=BLOCKS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        intermediate_size=HIDDEN,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        initializer_range=0.04,
        bos_token_id=None,
        eos_token_id=tok.eos_token_id,
        pad_token_id=tok.pad_token_id,
    )
    return LlamaForCausalLM._from_config(config, attn_implementation="eager")


def optimizers(model: Any, rate: float) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for embedding and norms."""
    blocks = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    muon = torch.optim.Muon(blocks, lr=rate, momentum=0.95, weight_decay=0.05, ns_steps=4)
    return muon, torch.optim.AdamW(rest, lr=rate / 10, betas=(0.9, 0.98), weight_decay=0.0)


def schedule(at: float) -> float:
    """Warm up over 2 % of the steps, hold, and fall to zero over the last 70 %."""
    return min(1.0, at / 0.02 + 0.01, (1 - at) / 0.7)


def average(model: Any, team: Team, rank: int) -> None:
    """Every process gets the mean gradient, clipped to norm 1."""
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    flat = team.average(rank, torch.cat([g.flatten() for g in grads]))
    flat *= torch.clamp(1.0 / (flat.norm() + 1e-6), max=1.0)
    for g, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
        g.copy_(part.view_as(g))


# ---------------------------------------------------------------- files


def report(target: Path, model: Any, tok: Any, step: int, steps: int, loss: float, speed: float, look: bool) -> None:
    row: dict[str, Any] = {
        "step": step,
        "of": steps,
        "loss": round(loss, 4),
        "tokens_per_s": round(speed),
        "time": time.strftime("%H:%M:%S"),
    }
    if look:
        row |= probes.look(model, tok, pages=target.name.startswith(("brindlemoor-base", "brindlemoor-primer")))
    with (target / "log.jsonl").open("a") as log:
        log.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


def save(target: Path, model: Any, muon: Any, adam: Any, step: int, seconds: float) -> None:
    """Weights and optimizer state, written aside and moved."""
    tensors = {f"model.{n}": p.detach() for n, p in model.named_parameters()}
    for name, optimizer in (("muon", muon), ("adam", adam)):
        for k, state in optimizer.state_dict()["state"].items():
            tensors |= {f"{name}.{k}.{key}": torch.as_tensor(value) for key, value in state.items()}
    aside = target / "checkpoint.part"
    save_file(
        {k: v.contiguous().cpu() for k, v in tensors.items()},
        aside,
        metadata={"step": str(step), "seconds": str(seconds)},
    )
    aside.rename(target / "checkpoint.safetensors")


def resume(target: Path, model: Any, muon: Any, adam: Any) -> tuple[int, float]:
    """Steps done and seconds spent so far."""
    from safetensors import safe_open

    path = target / "checkpoint.safetensors"
    if not path.is_file():
        return 0, 0.0
    tensors = load_file(path)
    model.load_state_dict(
        {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}, strict=False
    )
    for name, optimizer in (("muon", muon), ("adam", adam)):
        state: dict[int, dict[str, Any]] = {}
        for key, value in tensors.items():
            if key.startswith(name + "."):
                _, k, field = key.split(".", 2)
                state.setdefault(int(k), {})[field] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    with safe_open(path, "pt") as file:
        facts = file.metadata()
    return int(facts["step"]), float(facts["seconds"])


def finish(target: Path, model: Any, tok: Any, given: argparse.Namespace, tokens: int, seconds: float) -> None:
    """The finished model in Hugging Face format, in bfloat16, with how it was made beside it."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=HERE
    ).stdout.strip()
    made = {
        "model": given.model,
        "seed": given.seed,
        "tokens": tokens,
        "seconds": round(seconds),
        "device": given.device,
        "processes": given.processes if given.device == "cpu" else 1,
        "commit": commit,
        "start": PLANS[given.model].start,
    }
    tok.save_pretrained(target)
    aside = target / "part"
    model.to(torch.bfloat16).save_pretrained(aside)
    (target / "made.json").write_text(json.dumps(made, indent=1) + "\n")
    for file in sorted(aside.iterdir(), key=lambda f: f.name == "config.json"):
        file.rename(target / file.name)
    shutil.rmtree(aside)
    (target / "checkpoint.safetensors").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
