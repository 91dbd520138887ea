"""Tables of docs/statistics.md: each simulation writes its own, between two marks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "statistics.md"


def put(name: str, rows: Sequence[Sequence[str]], page: Path = PAGE) -> None:
    """Replace the table between `<!-- name -->` and `<!-- /name -->`; the first row is its head."""
    head, *body = [f"| {' | '.join(r)} |" for r in rows]
    table = "\n".join([head, "|---" * len(rows[0]) + "|", *body])
    before, begun, rest = page.read_text("utf-8").partition(f"<!-- {name} -->\n")
    _, ended, after = rest.partition(f"<!-- /{name} -->")
    if not begun or not ended:
        raise ValueError(
            f"{page} has no place for the table {name!r}: it needs the lines <!-- {name} --> and <!-- /{name} -->"
        )
    page.write_text(f"{before}<!-- {name} -->\n{table}\n{ended}{after}", "utf-8")
