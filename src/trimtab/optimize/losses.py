"""Losses of many vectors on many rows, by replays; and the same by full passes, as the oracle.

Problems whose vectors act alike at the same layers are one group: their rows are run once, side by side, and then
replayed under all vectors together. Say problem 0 has one vector and promotes row A; problem 1 has two (draws of a
noise, for instance) and looks at A as well, and at B, there also with the sign turned (a preference):

    Look (A, 0, +), (A, 1, +), (B, 1, +), (B, 1, -)      a row, who looks at it, with which sign

    Bundle    lines A and B, run once into a Prefix       Slots, (c, b) = (4, 2)       A     B
                                                          slot 0                       0+    1+
              vectors are numbered through all            slot 1                       1+    2+
              problems: 0 | 1, 2                          slot 2                       2+    1-
                                                          slot 3                       .     2-

One replay gives logits (c, b, k, v), and from them every Look gets its View. An empty slot (.) holds vector 0 under a
mask of nothing: it is computed and thrown away. So that few are empty, rows that about as many vectors look at are
bundled together: a row's *crowd* is the number of bits of how many do (1; 2-3; 4-7; ...).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from trimtab.errors import LossError
from trimtab.model import LM, Edit, Frame, Layer, Prefix, Row, Tokens
from trimtab.model.tokens import distinct_prompts
from trimtab.optimize.objectives import Term, View
from trimtab.optimize.preferences import Prefer
from trimtab.optimize.problems import Place, Problem
from trimtab.steering.interventions import Receipt, check_stack
from trimtab.steering.interventions import edits as stack_edits

Total = Callable[[int, Sequence[Tensor]], Tensor]
# ids, length of the prompt, and where its texts are: what makes a row
Key = tuple[tuple[int, ...], int, tuple[object, ...]]
Spot = tuple[int, int]  # a problem, and the number of one of its terms
Look = tuple[Key, int, float]  # a row, a problem that looks at it, and the sign of its vectors there


@dataclass(frozen=True)
class Found:
    """Losses (n,) of every term of a problem, gradients (n, l, r, d) of the weighted sum for the problems they were
    wanted for, and raw losses.
    """

    terms: Mapping[int, list[Tensor]]
    gradients: Mapping[int, Tensor]
    raw: Mapping[int, list[Tensor]] = field(default_factory=dict[int, list[Tensor]])


@dataclass(frozen=True)
class Prepared:
    """A term with its rows and what it knows."""

    term: Term
    rows: tuple[Row, ...]
    known: Any


class Losses:
    """The losses of problems on one model. Rows are run once, here; `at` replays them."""

    def __init__(
        self, lm: LM, problems: Sequence[Problem], batch: int, keep: int = 1, tokens: int | None = None
    ) -> None:
        """Rows are run in passes of `batch`; the passes of the last `keep` sets of rows that were asked for together
        are kept.

        With `tokens`, a pass has about so many at most (one row and all who look at it are never cut): what a descent
        remembers for its gradient.
        """
        self.lm, self.problems, self.batch, self.keep, self.tokens = lm, problems, batch, keep, tokens
        self.prepared: dict[Term, Prepared] = {}
        known = self._references()
        for problem in problems:
            check_stack(lm, problem.place.under)
            for _, term in problem.goal.terms:
                if term not in self.prepared:
                    if term.source not in known:
                        rows = tuple(term.rows(lm))
                        known[term.source] = (rows, term.prepare(lm, rows))
                    self.prepared[term] = Prepared(term, *known[term.source])
                _check_positions(lm, problem, self.prepared[term].rows)
        groups: dict[Any, list[int]] = {}
        for k, problem in enumerate(problems):
            p = problem.place
            groups.setdefault(
                (p.layers, p.operator, p.shared, p.rank, p.gain, tuple(id(iv) for iv in p.under)), []
            ).append(k)
        self.groups = [Group(self, members) for members in groups.values()]

    def _references(self) -> dict[Term, tuple[tuple[Row, ...], Any]]:
        """Rows and references of all preferences, a few at a time."""
        sources = dict.fromkeys(t.source for p in self.problems for _, t in p.goal.terms if isinstance(t, Prefer))
        rows = [tuple(term.rows(self.lm)) for term in sources]
        return dict(zip(sources, zip(rows, Prefer.references(self.lm, rows), strict=True), strict=True)) if rows else {}

    def at(
        self, vectors: Mapping[int, Float[Tensor, "n l r d"]], *, gradients: set[int], total: Total | None = None
    ) -> Found:
        """Losses of each problem under its n vectors.

        Args:
            vectors: problem -> its vectors; problems left out are not computed.
            gradients: problems whose gradient is wanted.
            total: of the losses of a problem's terms, instead of the weighted sum.
        """
        terms: dict[int, list[Tensor]] = {}
        derivatives: dict[int, Tensor] = {}
        raw: dict[int, list[Tensor]] = {}
        for group in self.groups:
            members = [k for k in group.members if k in vectors]
            if members:
                here = group.at({k: vectors[k] for k in members}, gradients & set(members), total)
                terms |= here.terms
                derivatives |= here.gradients
                raw |= here.raw
        return Found(terms, derivatives, raw)

    def weighted(self, problem: int, losses: Sequence[Float[Tensor, " n"]]) -> Float[Tensor, " n"]:
        """The objective of a problem from the losses of its terms."""
        return self.problems[problem].goal.weighted(losses)


@dataclass(frozen=True)
class Bundle:
    """Some rows of a group side by side, run once. `place` finds a row's line in them."""

    prefix: Prefix
    place: Mapping[Key, int]
    keep: tuple[int, ...]


@dataclass(frozen=True)
class Slots:
    """Who looks at which row of a bundle: (c, b) each.

    Attributes:
        bundle: the rows that are looked at.
        vector: number of the vector in the slot; 0 in empty slots.
        sign: what it is multiplied with.
        mask: (c, b, s) tokens it acts on; none in empty slots.
        of: look -> line of the bundle and the slots of the problem's vectors.
        share: whether rows with equal prompts are looked at by the same, so that their prompt need run only once.
    """

    bundle: Bundle
    vector: Int[Tensor, "c b"]
    sign: Float[Tensor, "c b"]
    mask: Bool[Tensor, "c b s"]
    of: Mapping[Look, tuple[int, slice]]
    share: bool


@dataclass(frozen=True)
class Part:
    """Passes that are run together, and the terms (problem, number of its term) that need them."""

    slots: Sequence[Slots]
    spots: Sequence[Spot]


class Group:
    """Problems whose vectors act in the same way at the same layers."""

    def __init__(self, owner: Losses, members: Sequence[int]) -> None:
        self.owner, self.lm, self.members = owner, owner.lm, list(members)
        self.place: Place = owner.problems[members[0]].place
        self.reads = sorted({layer for k in members for _, t in owner.problems[k].goal.terms for layer in t.reads})
        self._bundles: dict[tuple[tuple[Key, int], ...], list[Bundle]] = {}
        self._layouts: dict[Any, list[Slots]] = {}

    def at(self, vectors: Mapping[int, Tensor], wanted: set[int], total: Total | None) -> Found:
        """Losses, and gradients one part after the other: what a part remembers for its gradient is forgotten before
        the next one is run.
        """
        counts = {k: len(v) for k, v in vectors.items()}
        base = torch.cat([v.to(self.lm.device) for v in vectors.values()])  # (n of all problems, l, r, d)
        losses: dict[Spot, Tensor] = {}
        raw: dict[Spot, Tensor] = {}
        parts = self._parts(counts)
        pulls: Mapping[Spot, Any] = {
            (k, j): w for k in wanted for j, (w, _) in enumerate(self.owner.problems[k].goal.terms)
        }
        # how much each loss counts depends on all of them, so they are looked at first
        if wanted and total is not None and len(parts) > 1:
            with torch.no_grad():
                seen = {spot: x for part in parts for spot, (x, _) in self._losses(part, base, counts).items()}
            pulls = _pulls(total, seen, wanted)
        gradient = torch.zeros_like(base)
        # the graph of one part at a time: memory is that of the largest part, not of all passes
        for part in parts:
            every = base.clone().requires_grad_(bool(wanted))
            with torch.set_grad_enabled(bool(wanted)):
                values = self._losses(part, every, counts)
                if wanted and total is not None and len(parts) == 1:
                    pulls = _pulls(total, {spot: x for spot, (x, _) in values.items()}, wanted)
                mine = [(pulls[spot] * x).sum() for spot, (x, _) in values.items() if spot[0] in wanted]
            if mine:
                gradient += torch.autograd.grad(torch.stack(mine).sum(), every)[0]
            losses |= {spot: x.detach() for spot, (x, _) in values.items()}
            raw |= {spot: x.detach() for spot, (_, x) in values.items()}
        split = gradient.to(next(iter(vectors.values())).device).split(list(counts.values()))
        gradients = {k: g for k, g in zip(counts, split, strict=True) if k in wanted}
        return Found(self._by_problem(losses, counts), gradients, self._by_problem(raw, counts))

    def _by_problem(self, values: Mapping[Spot, Tensor], counts: Mapping[int, int]) -> dict[int, list[Tensor]]:
        """For every problem the values of its terms, in the order of the terms."""
        out: dict[int, list[Tensor]] = {}
        for k in counts:
            terms = self.owner.problems[k].goal.terms
            out[k] = [values[k, j] for j in range(len(terms))]
        return out

    def _parts(self, counts: Mapping[int, int]) -> list[Part]:
        """Passes, and the terms whose rows are in them and nowhere else: passes that a term needs together are one
        part.
        """
        every = self._slots(counts)
        place = {look: n for n, slots in enumerate(every) for look in slots.of}
        parts: list[tuple[set[int], list[Spot]]] = []
        for k in counts:
            for j, (_, term) in enumerate(self.owner.problems[k].goal.terms):
                # a term's loss needs all of its rows at once, so parts that share a term are joined
                needed = {place[key(row), k, term.sign] for row in self.owner.prepared[term].rows}
                spots = [(k, j)]
                for part in [p for p in parts if p[0] & needed]:
                    parts.remove(part)
                    needed, spots = needed | part[0], part[1] + spots
                parts.append((needed, spots))
        out: list[Part] = []
        for needed, spots in parts:
            passes = [every[n] for n in sorted(needed)]
            out.append(Part(passes, spots))
        return out

    def _losses(
        self, part: Part, every: Float[Tensor, "n l r d"], counts: Mapping[int, int]
    ) -> dict[Spot, tuple[Tensor, Tensor]]:
        """The loss and the raw loss of every term of a part; of terms that several problems share, for all of them at
        once.
        """
        views: dict[Look, View] = {}
        for slots in part.slots:
            views |= self._replay(slots, every)
        users: dict[Term, dict[int, list[int]]] = {}
        for k, j in part.spots:
            users.setdefault(self.owner.problems[k].goal.terms[j][1], {}).setdefault(k, []).append(j)
        out: dict[Spot, tuple[Tensor, Tensor]] = {}
        for term, places in users.items():
            known = self.owner.prepared[term]
            # problems that share a term (many starts of one descent) have it computed once, over all their vectors
            joint: list[View] = []
            for row in known.rows:
                looks = [views[key(row), k, term.sign] for k in places]
                joint.append(_joined(looks))
            sizes = [counts[k] for k in places]
            loss, raw = (x.split(sizes) for x in term.losses(joint, known.known))
            for n, (k, at) in enumerate(places.items()):
                out |= {(k, j): (loss[n], raw[n]) for j in at}
        return out

    # ------------------------------------------------------------ passes

    def _bundle(self, rows: Sequence[Row]) -> Bundle:
        tokens = self.lm.batch(rows)
        chosen = [self._selected(k, tokens) for k in self.members]
        # nothing before the first token that is steered, or read, changes
        start = min([tokens.pivot - 1, *(int(one.any(0).nonzero()[0]) for one in chosen if one.any())])
        keep = tuple(range(tokens.pivot - 1, max(tokens.pivot, tokens.ids.shape[1] - 1)))
        with self.lm.edit(stack_edits(self.place.under, Receipt())):
            prefix = self.lm.prefix(tokens, start, sorted({self.place.layers[0], *self.reads}), keep=keep[:1])
        # replays give their own; a column of the vocabulary for every row is large
        prefix = replace(prefix, logits=prefix.logits[:, :0].clone())
        return Bundle(prefix, {key(row): j for j, row in enumerate(rows)}, keep)

    def _selected(self, problem: int, tokens: Tokens) -> Bool[Tensor, "b s"]:
        return self.owner.problems[problem].place.where.select(tokens.index, tokens.rows)

    def _slots(self, counts: Mapping[int, int]) -> list[Slots]:
        """Slots for the problems that are under way. They, and the rows, stay until one of the problems ends."""
        wanted = tuple(counts.items())
        if wanted not in self._layouts:
            looks = self._looks(counts)
            crowds = {row: _lookers(who, counts).bit_length() for row, (who, _) in looks.items()}
            wanted_rows = tuple(crowds.items())
            if wanted_rows not in self._bundles:
                if len(self._bundles) >= self.owner.keep:
                    self._bundles.clear()
                    self._layouts.clear()
                self._bundles[wanted_rows] = []
                # rows with about as many slots go together, or most slots would be empty
                for crowd in sorted(set(crowds.values())):
                    rows = [row for name, (_, row) in looks.items() if crowds[name] == crowd]
                    self._bundles[wanted_rows] += self._bundled(rows, self._size(rows, crowd))
            lookers = {row: who for row, (who, _) in looks.items()}
            self._layouts[wanted] = [self._dealt(bundle, lookers, counts) for bundle in self._bundles[wanted_rows]]
        return self._layouts[wanted]

    def _bundled(self, rows: Sequence[Row], size: int) -> list[Bundle]:
        """Bundles of at most `size` rows each."""
        out: list[Bundle] = []
        for some in self.lm.batches(rows, size):
            chosen = [rows[j] for j in some]
            out.append(self._bundle(chosen))
        return out

    def _size(self, rows: Sequence[Row], crowd: int) -> int:
        """Rows of a pass in which about 2^crowd vectors look at each."""
        if self.owner.tokens is None:
            return self.owner.batch
        each = max(len(row.ids) for row in rows) << max(0, crowd - 1)
        return max(1, min(self.owner.batch, self.owner.tokens // each))

    def _looks(self, counts: Mapping[int, int]) -> dict[Key, tuple[list[tuple[int, float]], Row]]:
        """For every row the problems, each with a sign, that look at it."""
        looks: dict[Key, tuple[list[tuple[int, float]], Row]] = {}
        for k in counts:
            for _, term in self.owner.problems[k].goal.terms:
                for row in self.owner.prepared[term].rows:
                    who = looks.setdefault(key(row), ([], row))[0]
                    if (k, term.sign) not in who:
                        who.append((k, term.sign))
        return looks

    def _dealt(self, bundle: Bundle, looks: Mapping[Key, list[tuple[int, float]]], counts: Mapping[int, int]) -> Slots:
        """Slots of one bundle: in every line, the vectors of the problems that look at it, one after the other."""
        tokens, start = bundle.prefix.tokens, bundle.prefix.start
        c, b = max(_lookers(looks[row], counts) for row in bundle.place), len(bundle.place)
        ends = list(accumulate(counts.values()))
        offsets = {k: end - n for (k, n), end in zip(counts.items(), ends, strict=True)}
        acts = {k: self._selected(k, tokens)[:, start:] for k in counts}
        vector, sign = torch.zeros(c, b, dtype=torch.long), torch.ones(c, b)
        mask = torch.zeros(c, b, tokens.ids.shape[1] - start, dtype=torch.bool)
        of: dict[Look, tuple[int, slice]] = {}
        for row, line in bundle.place.items():
            free = 0
            for k, s in looks[row]:
                taken = slice(free, free + counts[k])
                free += counts[k]
                vector[taken, line] = torch.arange(offsets[k], offsets[k] + counts[k])
                sign[taken, line] = s
                mask[taken, line] = acts[k][line].cpu()
                of[row, k, s] = (line, taken)
        where = self.lm.device
        first, place = distinct_prompts(tokens)
        like = torch.tensor(first)[place]
        # a prompt that two lines share is run once, if the same vectors act on it with the same signs
        share = len(first) < b and torch.equal(vector, vector[:, like]) and torch.equal(sign, sign[:, like])
        return Slots(bundle, vector.to(where), sign.to(where), mask.to(where), of, share)

    def _replay(self, slots: Slots, every: Float[Tensor, "n l r d"]) -> dict[Look, View]:
        """One pass of the blocks above the first layer, for every slot; views of it by row and problem."""
        prefix, place = slots.bundle.prefix, self.place
        c, b = slots.vector.shape
        seen: dict[Layer, Tensor] = {}
        # every[slots.vector]: (n, l, r, d) -> (c, b, l, r, d), the vector in every slot
        acted = [acting(place, k, every[slots.vector], slots.sign, slots.mask) for k in range(len(place.layers))]
        # (b, s, d) -> (c, b, s, d): all slots start from the recorded stream below the first vector
        h = acted[0](prefix.residual[place.layers[0]][None].expand(c, -1, -1, -1))
        under = stack_edits(place.under, Receipt())

        def at(layer: Layer) -> Edit:
            def edit(h: Tensor, frame: Frame) -> Tensor:
                h = under[layer](h, frame) if layer in under else h
                if layer in place.layers:
                    # replays hand over (c * b, s, d)
                    h = acted[place.layers.index(layer)](h.unflatten(0, (c, b))).flatten(0, 1)
                if layer in self.reads:
                    seen[layer] = h.unflatten(0, (c, b)).float()
                return h

            return edit

        above = {*place.layers, *self.reads, *under}
        edits = {layer: at(layer) for layer in sorted(above) if layer > place.layers[0]}
        logits = self.lm.replay(prefix, place.layers[0], h, keep=slots.bundle.keep, edits=edits, share=slots.share)
        index, start = prefix.tokens.index, prefix.start
        shifts = {layer: x - prefix.residual[layer].float() for layer, x in seen.items()}
        lines = logits.unbind(1)  # the gradient of an unbound line is as large as the line, not as all of them
        views: dict[Look, View] = {}
        for (row, k, s), (line, taken) in slots.of.items():
            spot, m = prefix.tokens.rows[line], len(row[0]) - row[1]
            near = {layer: x[taken, line] for layer, x in shifts.items()}
            views[row, k, s] = View(spot, lines[line][taken, :m], near, index[line, start:])
        return views


def _lookers(who: Sequence[tuple[int, float]], counts: Mapping[int, int]) -> int:
    """How many vectors look at a row, of all the problems that do."""
    return sum(counts[k] for k, _ in who)


def acting(
    place: Place,
    k: int,
    v: Float[Tensor, "*batch l r d"],
    sign: Float[Tensor, "*batch"],
    mask: Bool[Tensor, "*batch s"],
) -> Any:
    """h (..., s, d) -> h with the vectors of the k-th layer acting on it."""
    rows = v[..., 0 if place.shared else k, :, :]
    m: Any = place.gain if bool((sign == 1).all()) else place.gain * sign[..., None, None]

    def act(h: Tensor) -> Tensor:
        return torch.where(mask[..., None].to(h.device), place.operator(h, rows, m), h)

    return act


def losses_in_full(lm: LM, problem: Problem, v: Float[Tensor, "l r d"] | None) -> list[Float[Tensor, ""]]:
    """The loss of every term of a problem at one vector, row by row with hooks and no cache; differentiable in v. The
    oracle.

    Without a vector: the losses of the model as it is, under what the place stands on.
    """
    out: list[Tensor] = []
    for _, term in problem.goal.terms:
        rows = term.rows(lm)
        views = [_full_view(lm, problem.place, term, row, v) for row in rows]
        out.append(term.loss(views, term.prepare(lm, rows))[0])
    return out


def _full_view(lm: LM, place: Place, term: Term, row: Row, v: Tensor | None) -> View:
    tokens = lm.batch([row])
    mask = place.where.select(tokens.index, tokens.rows)
    under = stack_edits(place.under, Receipt())

    def passed(v: Tensor | None) -> tuple[Tensor, dict[Layer, Tensor]]:
        seen: dict[Layer, Tensor] = {}

        def at(layer: Layer) -> Edit:
            def edit(h: Tensor, frame: Frame) -> Tensor:
                h = under[layer](h, frame) if layer in under else h
                if v is not None and layer in place.layers:
                    sign = torch.full((1,), term.sign, device=h.device)
                    h = acting(place, place.layers.index(layer), v[None].to(h.device), sign, mask)(h)
                seen[layer] = h.float()
                return h

            return edit

        with lm.edit({layer: at(layer) for layer in sorted({*place.layers, *term.reads, *under})}):
            logits = lm.forward(tokens.ids, Frame(tokens.index, tokens.rows), tokens.mask)
        return logits[:, row.prompt - 1 : len(row.ids) - 1], seen

    with torch.no_grad():
        plain, before = passed(None)
    logits, seen = (plain, before) if v is None else passed(v)
    return View(row, logits, {layer: seen[layer] - before[layer] for layer in term.reads}, tokens.index[0])


def _pulls(total: Total, losses: Mapping[Spot, Tensor], wanted: set[int]) -> dict[Spot, Tensor]:
    """The derivative of every problem's total with respect to each of its losses."""
    out: dict[Spot, Tensor] = {}
    for k in wanted:
        spots = sorted(spot for spot in losses if spot[0] == k)
        leaves = [losses[spot].detach().clone().requires_grad_() for spot in spots]
        with torch.enable_grad():
            pulled: Any = torch.autograd.grad(total(k, leaves).sum(), leaves, allow_unused=True)
        out |= {
            spot: torch.zeros_like(leaf) if g is None else g
            for spot, leaf, g in zip(spots, leaves, pulled, strict=True)
        }
    return out


def key(row: Row) -> Key:
    """What makes a row."""
    return (row.ids, row.prompt, row.asked[1:])


def _check_positions(lm: LM, problem: Problem, rows: Sequence[Row]) -> None:
    for row in rows:
        tokens = lm.batch([row])
        if not problem.place.where.select(tokens.index, tokens.rows)[:, : max(row.prompt, len(row.ids) - 1)].any():
            raise LossError(
                "the positions select no token that can matter",
                given=f"{problem.place.positions} in {lm.tokenizer.decode(row.ids)[-80:]!r}",
            )


def _joined(views: Sequence[View]) -> View:
    """The same row under the vectors of several problems."""
    if len(views) == 1:
        return views[0]
    one = views[0]
    shifts: dict[Layer, Tensor] = {}
    for layer in one.shifts:
        shifts[layer] = torch.cat([v.shifts[layer] for v in views])
    return View(one.row, torch.cat([v.logits for v in views]), shifts, one.index)
