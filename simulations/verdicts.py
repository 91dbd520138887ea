"""How often the decision table claims an effect where there is none, and where there is one: simulated with the
library's own choice of a layer, nulls and table.

A model is a gradient of the propensity at every layer, alike between neighboring layers, that differs from item to
item; a vector moves an item by its product with that item's gradient. Null vectors are exchangeable with the one that
is judged; slopes are so large that the floor of an effect plays no part. `python simulations/verdicts.py` writes the
table of docs/statistics.md (ten minutes on two cores).
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from page_tables import put

from trimtab.statistics.intervals import Array, interval, mean_figure, wilson
from trimtab.statistics.nulls import Compared, Null
from trimtab.statistics.verdict import Evidence, Kind, decide
from trimtab.steering.controls import KEPT, more, turned

WIDTH, DRAWS = 48, 499
CLAIMS = ("works", "works backwards")


@dataclass(frozen=True)
class World:
    """What is simulated.

    Attributes:
        layers: to choose from.
        planted: how far the vector leads along the mean gradient, in standard deviations of a random direction's
            slope; 0 for an exchangeable one.
        kind: of vector: "random" (isotropic), or "shuffled" (a mean of training differences whose sides are drawn by
            coin).
        test, val: items that measure and that choose.
        bend: how far measured slopes of an item scatter around the forecast ones, in standard deviations of the latter.
    """

    layers: int
    planted: float = 0.0
    kind: str = "random"
    test: int = 44
    val: int = 9
    train: int = 35
    bend: float = 0.3


def judged(world: World, seed: int) -> Kind:
    """The verdict of one simulated run."""
    rng = np.random.default_rng(seed)
    mean, of_items = _gradients(world, rng)
    vector, kept = _vector(world, mean, rng)
    slopes = np.einsum("nld,ld->nl", of_items, vector)
    slopes = slopes + world.bend * slopes.std() * rng.normal(size=slopes.shape)
    chosen = _choice(slopes[: world.val])
    items = of_items[world.val :]
    forecast = items.mean(0)
    nulls = [Null.of("random", range(world.layers), _random(vector, forecast, DRAWS, seed))]
    if kept is not None:
        seen = torch.tensor((kept * forecast).sum(-1)[..., None])
        nulls.append(
            Null.of("shuffled", range(world.layers), more(seen.float(), DRAWS, seed)[..., 0].numpy().astype(float))
        )
    compared = Compared(
        str(chosen), float((vector[chosen] * forecast[chosen]).sum()), world.test, "forecast", tuple(nulls)
    )
    measured = slopes[world.val :, chosen]
    drawn = (
        _random(vector[[chosen]], forecast[[chosen]], 3, seed + 500_000)
        if kept is None
        else (kept[:2, chosen] * forecast[chosen]).sum(-1)
    )
    return decide(
        Evidence(
            mean_figure("steerability", measured, "nats per multiplier"),
            world.test,
            compared.p,
            float(np.abs(drawn).max()),
            foreseen=compared.slope,
        )
    )


def _gradients(world: World, rng: np.random.Generator) -> tuple[Array, Array]:
    """Mean gradient (l, d), which drifts from layer to layer and grows with it, and those of the items (n, l, d)."""
    drawn = rng.normal(size=(world.layers, WIDTH))
    mean = np.empty_like(drawn)
    mean[0] = drawn[0]
    for k in range(1, world.layers):
        mean[k] = 0.9 * mean[k - 1] + (1 - 0.81) ** 0.5 * drawn[k]
    mean *= np.exp(rng.normal(0, 0.5, (world.layers, 1)))
    n = world.val + world.test
    return mean, mean + rng.normal(size=(n, 1, WIDTH)) * np.abs(mean).mean() * 1.5


def _vector(world: World, mean: Array, rng: np.random.Generator) -> tuple[Array, Array | None]:
    """The vector that is judged (l, d), and the label-shuffled ones that come with it."""
    along = mean / np.linalg.norm(mean, axis=-1, keepdims=True)
    if world.kind == "random":
        drawn = rng.normal(size=(world.layers, WIDTH))
        return drawn + world.planted * along, None
    # differences vary in some directions more than in others
    spread = rng.normal(size=(WIDTH, WIDTH)) * np.exp(rng.normal(0, 1, WIDTH))
    deltas = rng.normal(size=(world.train, world.layers, WIDTH)) @ spread / WIDTH**0.5
    deltas = 0.8 * deltas[:, :1] + 0.6 * deltas  # and alike at all layers
    noise = float(deltas.std()) * world.train**-0.5
    signs = rng.choice((-1.0, 1.0), (KEPT + 1, world.train))
    found = np.einsum("cn,nld->cld", signs, deltas) / world.train
    return found[0] + world.planted * noise * along, found[1:]


def _random(like: Array, forecast: Array, count: int, seed: int) -> Array:
    """Slopes (count, l) of random directions, as the library draws them."""
    return np.einsum("cld,ld->cl", turned(torch.tensor(like).float(), count, seed).numpy().astype(float), forecast)


def _choice(slopes: Array) -> int:
    """As `reports.analysis.choose_layer`: the best lower bound on validation items."""
    return max(range(slopes.shape[1]), key=lambda k: interval(slopes[:, k])[0])


def cell(world: World, times: int, seed: int = 0) -> Counter[Kind]:
    """Verdicts of many simulated runs."""
    return Counter(judged(world, 1_000_000 * seed + k) for k in range(times))


def rows(times: int = 2000) -> Iterator[list[str]]:
    """The table: share of claims, with its interval."""
    yield [
        "vector",
        "layers to choose from",
        "planted",
        "runs",
        "works",
        "works backwards",
        "any claim (95 % interval)",
    ]
    worlds = [World(n, 0.0, kind) for kind in ("random", "shuffled") for n in (1, 6, 30)]
    worlds += [World(n, size, "random") for size in (2.0, 4.0, 8.0) for n in (1, 30)] + [
        World(n, 4.0, "shuffled") for n in (1, 30)
    ]
    for world in worlds:
        runs = times if not world.planted else max(100, times // 5)
        found = cell(world, runs)
        claims = sum(found[k] for k in CLAIMS)
        lo, hi = wilson(claims, runs)
        name = {"random": "random direction", "shuffled": "mean of differences, sides drawn by coin"}[world.kind]
        shares = [f"{found[k] / runs:.3f}" for k in CLAIMS]
        yield [
            name,
            str(world.layers),
            f"{world.planted:g} s.d." if world.planted else "nothing",
            str(runs),
            *shares,
            f"{claims / runs:.3f} ({lo:.3f} to {hi:.3f})",
        ]


if __name__ == "__main__":
    torch.set_num_threads(1)
    table = list(rows(int(sys.argv[1]) if len(sys.argv) > 1 else 2000))
    print("\n".join(" | ".join(r) for r in table))
    put("verdicts", table)
