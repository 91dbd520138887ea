"""The command line. Thin: flags come from the fields of dataclasses (`flags.py`), every command is a few lines over the
library (`commands.py`).
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from trimtab.cli.commands import COMMANDS
from trimtab.cli.flags import parse
from trimtab.cli.memory import steady_memory
from trimtab.errors import TrimtabError, UnknownName

__all__ = ["COMMANDS", "main"]

USAGE = """usage: trimtab COMMAND ...

Steering vectors: learn them, know how far to trust them, ship them.

  run RECIPE --to DIR        run a recipe: learn, choose a layer, measure with controls, report
  plan RECIPE                what a recipe will cost, before it runs: passes, hours, memory
  auto "SENTENCE" --to DIR   from a sentence to a vector one would use, or the reason why not
  learn METHOD --data D      learn a steering vector and save it
  dose VECTOR                which layer, how strongly, at what cost: measured, and kept in the file
  steer VECTOR -p PROMPT     generate with a vector switched on
  measure VECTOR --data D    score a vector and its controls on held-out items
  capability VECTOR --to DIR what a vector costs: knowledge, truthfulness, tasks of lm-eval
  compare VECTOR VECTOR ...  cosines and norms
  paths VECTOR VECTOR ...    the loss on the way from one to another
  detect VECTOR ...          do they tell some prompts from others?
  sizes DATA                 what more examples bring to a one-shot vector
  judge FILE --rubric NAME   rate answers with a model as judge; with a truth, how well it judges
  audit MODEL                how easily a model's safeguards move, in both directions
  report DIR                 write the report of a run folder again
  merge DIR ...              put shares together that run --shard did, and open the next stage
  across DIR DIR ...         one study on several models, side by side
  chat [VECTOR]              talk to a model; /m 1.5 changes the multiplier
  studio [VECTOR ...]        a local page: talk, doses with their price, learn, evidence
  serve MODEL --vectors DIR  an OpenAI-compatible server that steers each request as it asks
  export TARGET VECTOR --to  for llama.cpp, as a checkpoint, a PEFT adapter, or hooks: proved equal there
  import FILE                a vector of others: control vector, adapter, SAE feature, tensors
  card VECTOR                what it is, what it does and what it breaks, on one page
  push VECTOR OWNER/NAME     to the Hugging Face hub; pull OWNER/NAME brings it back, checked
  gate DIR ...               hold a run's figures to budgets: exit code 1 where one is broken
  doctor MODEL               what trimtab finds in a model: blocks, exactness, memory, time
  list                       studies, built-in behaviors, methods, operators, metrics

trimtab COMMAND --help shows the flags of a command. --json prints one JSON object for machines.
trimtab --version shows which trimtab this is.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point. Errors of trimtab are printed on one screen and exit with 2; an interrupt exits with 130."""
    args = list(sys.argv[1:] if argv is None else argv)
    _speak_any_text()
    if not args or args[0] in ("-h", "--help"):
        print(USAGE, end="")
        return
    if args[0] in ("-V", "--version"):
        print(f"trimtab {version('trimtab')}")
        return
    try:
        if args[0] not in COMMANDS:
            raise UnknownName("command", args[0], COMMANDS)
        command = COMMANDS[args[0]]
        steady_memory()
        if isinstance(command, type):
            parse(command, args[1:], f"trimtab {args[0]}")()
        else:
            command(args[1:])
    except TrimtabError as problem:
        _tell(problem, "--json" in args)
        sys.exit(2)
    except BrokenPipeError:  # whoever was reading has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt:
        print(f"\ninterrupted; {_what_is_left(args)}", file=sys.stderr)
        sys.exit(130)


def _tell(problem: TrimtabError, as_json: bool) -> None:
    """An error: as text on standard error, or as one JSON object where the answer would have been."""
    if not as_json:
        print(f"error: {problem}", file=sys.stderr)
        return
    from trimtab.journal import plain

    parts = {k: getattr(problem, k) for k in ("failed", "given", "expected", "do")}
    known = {k: v if isinstance(v, str | int | float | list | dict) else str(v) for k, v in parts.items() if v}
    print(json.dumps({"error": plain(known)}, allow_nan=False))


def _what_is_left(args: Sequence[str]) -> str:
    """What an interrupted command leaves: whether the same command goes on, or begins anew."""
    from trimtab import registry

    goes_on = args[0] in ("run", "measure", "judge")
    if args[0] == "learn" and len(args) > 1:
        goes_on = hasattr(registry.leaves("method").get(args[1]), "resume")
    return (
        "nothing finished is lost: the same command goes on from here"
        if goes_on
        else f"`trimtab {args[0]}` keeps nothing of what it began"
    )


def _speak_any_text() -> None:
    """A console that cannot show a character shows its number: better than an error after the work."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and (stream.encoding or "").lower().replace("-", "") != "utf8":
            stream.reconfigure(errors="backslashreplace")
