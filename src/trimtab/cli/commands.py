"""Every command by its name; each is a few lines over the library."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trimtab.cli.comparing import Compare, Detect, Paths, Sizes
from trimtab.cli.costing import Capability
from trimtab.cli.dosing import Dose
from trimtab.cli.learning import Chat, Steer, learn
from trimtab.cli.looking import Doctor, List
from trimtab.cli.making import Auto
from trimtab.cli.planning import Plan
from trimtab.cli.rating import Audit, Judge
from trimtab.cli.running import Across, Measure, Merge, Report, Run
from trimtab.cli.serving import Serve
from trimtab.cli.shipping import Card, Gate, Import, Pull, Push, export
from trimtab.cli.studio import Studio

COMMANDS: dict[str, type | Callable[[Sequence[str]], None]] = {
    "run": Run,
    "plan": Plan,
    "auto": Auto,
    "learn": learn,
    "dose": Dose,
    "steer": Steer,
    "measure": Measure,
    "capability": Capability,
    "compare": Compare,
    "paths": Paths,
    "detect": Detect,
    "sizes": Sizes,
    "judge": Judge,
    "audit": Audit,
    "across": Across,
    "report": Report,
    "chat": Chat,
    "serve": Serve,
    "studio": Studio,
    "merge": Merge,
    "export": export,
    "import": Import,
    "card": Card,
    "push": Push,
    "pull": Pull,
    "gate": Gate,
    "doctor": Doctor,
    "list": List,
}
