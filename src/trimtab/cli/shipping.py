"""Commands that take a vector out of the door, or in: export, import, card, push, pull, gate."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from trimtab.cli.flags import (
    Common,
    ForOutput,
    ModelFlags,
    OnModel,
    UseFlags,
    in_short,
    parse,
    show,
    writable,
)
from trimtab.errors import RecipeError, UnknownName, VectorError

if TYPE_CHECKING:
    from trimtab.model import LM
    from trimtab.steering.vector import SteeringVector


@dataclass(frozen=True)
class _ExportFlags:
    vector: Positional[Path]
    to: Path
    """The file, or the folder, to write."""
    use: UseFlags = field(default_factory=UseFlags)
    on: OnModel = field(default_factory=ModelFlags)
    common: ForOutput = field(default_factory=Common)


def export(args: Sequence[str]) -> None:
    """`trimtab export TARGET VECTOR --to PATH ...`: the target's fields become flags."""
    from trimtab import registry

    targets = registry.leaves("exporter")
    if not args or args[0] in ("-h", "--help"):
        print("usage: trimtab export TARGET VECTOR --to PATH [--positions everywhere] ...\n\ntargets:")
        print("\n".join(f"  {name:8} {in_short(cls, 11)}" for name, cls in sorted(targets.items())))
        return
    if args[0] not in targets:
        raise UnknownName("target", args[0], targets)
    made: list[tuple[str, Any, Any]] = [("target", targets[args[0]], field(default_factory=targets[args[0]]))]
    flags: Any = parse(
        dataclasses.make_dataclass("Export", made, bases=(_ExportFlags,), frozen=True),
        args[1:],
        f"trimtab export {args[0]}",
    )
    flags.on.check()
    from trimtab.exporters import check_place
    from trimtab.exporters import export as export_vector
    from trimtab.steering.vector import SteeringVector

    vector = SteeringVector.load(flags.vector)
    iv = flags.use.of(vector)
    flags.target.expressible([iv])
    check_place(flags.to, flags.target)
    if vector.use is not None and str(iv.where) != vector.use.positions:
        print(
            f"the dose of {flags.vector} was measured for {vector.use.positions}, not for {iv.where}: "
            f"`trimtab dose {flags.vector} --positions {iv.where}` measures it there",
            file=sys.stderr,
        )
    lm = flags.on.of(vector).load(flags.common.json)
    proof = export_vector(iv, lm, flags.to, to=flags.target)
    facts = {"path": str(flags.to), "target": args[0], "proof": dataclasses.asdict(proof)}
    show(facts, flags.common.json, [str(proof), str(flags.to)])


@dataclass(frozen=True)
class Import:
    """Read a vector of others: a control vector (.gguf), a PEFT adapter (a folder), a feature of an SAE (--feature), or
    plain tensors (--layers-are). Pickles are never read.
    """

    file: Positional[Path]
    to: Path = Path("vector.safetensors")
    """File to write."""
    layers_are: Literal["outputs", "inputs", "hidden-states"] | None = None
    """What the numbers in the names of plain tensors mean: outputs or inputs of blocks, from 0, or entries of
    hidden_states."""
    feature: int | None = None
    """Of an SAE: which feature."""
    at: int | None = None
    """Of an SAE: the block whose output it was trained on, from 0."""
    key: str | None = None
    """Of an SAE: name of its decoder, one feature a row."""
    on: OnModel = field(default_factory=ModelFlags)
    common: ForOutput = field(default_factory=Common)

    def __call__(self) -> None:
        to = writable(self.to, ".safetensors")
        if not self.file.exists():
            raise VectorError(f"no such file: {self.file}")
        if self.file.resolve() == to.resolve():
            raise VectorError("a file is not read into itself", given=str(to), do="--to another file")
        self._check()
        if self.on.model is not None:
            self.on.check()
        vector = self._read(None if self.on.model is None else self.on.load(self.common.json))
        path = vector.save(to)
        facts = {"path": str(path), "layers": list(vector.layers), "norm": vector.norm(), "model": vector.made.model}
        show(facts, self.common.json, [repr(vector), str(path)])

    def _check(self) -> None:
        """Refuse flags that do not go together, before a model is loaded."""
        if self.feature is not None and (self.at is None or self.layers_are is not None):
            raise RecipeError("of an SAE one says the feature and the block", expected="--feature N --at LAYER")
        alone = self.file.is_dir() or self.file.suffix == ".gguf"
        idle = {"--layers-are": self.layers_are, "--feature": self.feature, "--at": self.at, "--key": self.key}
        said = [name for name, value in idle.items() if value is not None]
        if said and (alone or (self.feature is None and said != ["--layers-are"])):
            raise RecipeError(f"flags that say nothing of {self.file.name}", given=said, do="leave them out")
        if self.file.is_dir() and self.on.model is None:
            raise RecipeError("an adapter is read with its model", expected="--model NAME")
        plain = not self.file.is_dir() and self.file.suffix != ".gguf" and self.feature is None
        if plain and self.layers_are is None:
            from trimtab.steering import tensors

            tensors.read(self.file)  # what it is instead may be the better answer
            raise RecipeError(
                f"which blocks are the tensors of {self.file} for?",
                expected="--layers-are outputs, inputs or hidden-states; or --feature N --at LAYER",
            )

    def _read(self, lm: LM | None) -> SteeringVector:
        from trimtab.exporters import importers
        from trimtab.steering.vector import SteeringVector

        if self.feature is not None and self.at is not None:
            return SteeringVector.from_sae(self.file, self.feature, self.at, lm=lm, key=self.key)
        if self.file.is_dir() and lm is not None:
            return importers.from_peft(self.file, lm)
        if self.file.suffix == ".gguf":
            return importers.from_gguf(self.file, lm)
        assert self.layers_are is not None
        return importers.from_tensors(self.file, self.layers_are, lm)


@dataclass(frozen=True)
class Card:
    """Print the card of a vector: what it is, how to use it, what it was measured to do and to break."""

    vector: Positional[Path]
    to: Path | None = None
    """File to write instead."""

    def __call__(self) -> None:
        from trimtab.exporters.card import card
        from trimtab.steering.vector import SteeringVector

        text = card(SteeringVector.load(self.vector), self.vector.read_bytes())
        if self.to is None:
            print(text, end="")
        else:
            writable(self.to, ".md").write_text(text, "utf-8")
            print(self.to)


@dataclass(frozen=True)
class Push:
    """Upload a vector and its card to a repository of the Hugging Face hub (`hf auth login` first). What is printed
    names the very bytes: `trimtab pull` takes it.
    """

    vector: Positional[Path]
    repo: Positional[str]
    """owner/name; made if it is not there."""
    private: bool = False
    """Make the repository a private one."""
    common: ForOutput = field(default_factory=Common)

    def __call__(self) -> None:
        from trimtab.exporters.hub import push

        done = push(self.vector, self.repo, private=self.private)
        facts = {**dataclasses.asdict(done), "reference": done.reference}
        show(facts, self.common.json, [done.reference])


@dataclass(frozen=True)
class Pull:
    """Download a vector from the Hugging Face hub, check its bytes, and write its file."""

    reference: Positional[str]
    """owner/name, with @revision and #sha256 if they are known."""
    to: Path = Path("vector.safetensors")
    """File to write."""
    common: ForOutput = field(default_factory=Common)

    def __call__(self) -> None:
        from trimtab.cli.dosing import usage
        from trimtab.exporters.hub import pull

        to = writable(self.to, ".safetensors")
        vector = pull(self.reference, to)
        facts = {"path": str(to), "vector": vector.hash, "model": vector.made.model}
        show(facts, self.common.json, [repr(vector), *usage(vector), str(to)])


@dataclass(frozen=True)
class Gate:
    """Hold the figures of runs to budgets: exit code 1, and a line for each that is broken."""

    folders: Positional[tuple[Path, ...]]
    min_slope: float | None = None
    """Least steerability, per multiplier."""
    max_wrong: float | None = None
    """Largest share of items that go the wrong way."""
    max_drift: float | None = None
    """Most nats a token by which the recommended dose moves the model from itself."""
    max_knowledge_drop: float | None = None
    """Largest fall of the share of knowledge questions that are right."""
    surely: bool = False
    """Hold the unfavorable end of the 95 %% interval to the budget."""
    summary: Path | None = None
    """Markdown file to add a table to, such as $GITHUB_STEP_SUMMARY."""
    common: ForOutput = field(default_factory=Common)

    def __call__(self) -> None:
        from trimtab.studies.pages.gate import Budgets, gate, markdown

        if self.summary is not None:
            writable(self.summary)
        known = {f.name: getattr(self, f.name) for f in dataclasses.fields(Budgets)}
        held = gate(self.folders, Budgets(**known))
        if self.summary is not None:
            with self.summary.open("a", encoding="utf-8") as file:
                file.write(markdown(held))
        broken = [h for h in held if not h.kept]
        facts = {"budgets": [{**dataclasses.asdict(h), "kept": h.kept} for h in held], "kept": not broken}
        show(facts, self.common.json, [str(h) for h in broken or held])
        if broken:
            sys.exit(1)
