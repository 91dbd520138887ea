"""Commands that look: doctor, list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tyro.conf import Positional

from trimtab.cli.flags import Common, ModelFlags, show


@dataclass(frozen=True)
class Doctor:
    """Load a model and print the blocks found, whether replays are exact, and what memory and time to expect."""

    model: Positional[str]
    dtype: str | None = None
    device: str | None = None
    common: Common = field(default_factory=Common)

    def __call__(self) -> None:
        from trimtab.cli.doctor import examine

        facts = examine(ModelFlags(self.model, self.dtype, self.device).load())
        show(facts, self.common.json, [f"{k:22} {v}" for k, v in facts.items()])


def list_names(args: Sequence[str]) -> None:
    """`trimtab list`"""
    from trimtab import organisms, registry, studies
    from trimtab.data.builtin import built_in

    data = [*built_in(), *organisms.names()]
    found = {
        "models": ["smollm2", *organisms.MODELS],
        "studies": list(studies.names()),
        "behaviors": data,
        **{f"{k}s": sorted(registry.leaves(k)) for k in ("method", "operator", "gate", "metric")},
    }
    show(found, "--json" in args, [f"{k:10} {', '.join(v)}" for k, v in found.items()])
