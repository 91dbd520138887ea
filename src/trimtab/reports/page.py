"""The report as one self-contained HTML file, and as Markdown."""

from __future__ import annotations

import html as escape
import math
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from trimtab.journal import plain
from trimtab.reports.analysis import Analysis
from trimtab.reports.figures import Plot
from trimtab.reports.snippets import dose_rows, snippets
from trimtab.runs import Run
from trimtab.statistics.intervals import Figure

SHOWN = 6  # prompts whose answers are on the page
CSS = (files("trimtab") / "reports" / "page.css").read_text("utf-8")


def html(a: Analysis, plots: Mapping[str, Plot]) -> str:
    """One file: no scripts, no links to anything outside."""
    e = escape.escape
    reasons = "".join(f"<li>{e(r)}</li>" for r in a.reasons)
    figures = "".join(
        f"<figure><h3>{e(p.title)}</h3>{unique(p.svg, k)}<figcaption>{e(p.caption)}</figcaption></figure>"
        for k, p in plots.items()
    )
    parts = [
        f"<h1>{e(a.name)}</h1><p class='sub'>{e(_subtitle(a))}</p>",
        f"<section class='verdict'><strong>{e(a.verdict)}</strong><p>{e(a.next)}</p><ul>{reasons}</ul></section>",
        _answer_table(a),
        _use_section(a),
        f"<h2>Plots</h2><div class='plots'>{figures}</div>",
        f"<h2>Figures</h2><div class='wide'>{_figure_table(a.figures)}</div>",
        f"<h2>What was measured</h2><div class='wide'>{_fact_table(a)}</div>",
        f"<h2>Run it again</h2><pre>trimtab run recipe.toml --to NEW_FOLDER</pre><pre>{e(a.recipe)}</pre>"
        if a.recipe
        else "",
    ]
    return document(a.name, "".join(parts))


def document(title: str, body: str) -> str:
    """A whole page."""
    title = escape.escape(title)
    head = (
        "<meta charset='utf-8'><meta name='viewport' "
        f"content='width=device-width,initial-scale=1'><title>{title}</title><style>{CSS}</style>"
    )
    return f"<!doctype html><html lang='en'><head>{head}</head><body><main>{body}</main></body></html>\n"


def markdown(a: Analysis, plots: Mapping[str, Plot]) -> str:
    """The same in Markdown, plots as PNG beside it."""
    lines = [
        f"# {a.name}",
        "",
        _subtitle(a),
        "",
        f"**{a.verdict}**",
        "",
        a.next,
        "",
        *(f"- {r}" for r in a.reasons),
        "",
    ]
    for prompt, row in _first_answers(a).items():
        lines += ["", f"**{prompt}**", "", *(f"- {m:g}: {text}" for m, text in row.items())]
    lines += ["", *_use_lines(a)]
    lines += [f"![{p.title}](plots/{k}.png)\n\n*{p.caption}*\n" for k, p in plots.items()]
    lines += ["| figure | value | 95 % interval | n | unit | controls |", "|---|---|---|---|---|---|"]
    lines += ["| " + " | ".join(_cells(f)) + " |" for f in a.figures]
    lines += ["", "| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in facts(a).items())]
    if a.recipe:
        lines += ["", "```toml", a.recipe.rstrip(), "```"]
    return "\n".join(lines) + "\n"


def facts(a: Analysis) -> dict[str, str]:
    """What was run, in words."""
    plan, made = a.plan, a.manifest.get("vector", {})
    iv = next(c["intervention"] for c in plan["conditions"] if c["name"] == "vector")
    controls = [c["name"] for c in plan["conditions"] if c["intervention"] and c["name"] != "vector"]
    out = {
        "model": f"{plan['model']['id']} ({plan['model']['dtype'].removeprefix('torch.')})",
        "data": (
            f"{plan['data']['name']}, {plan['data']['form']}, part {plan['data']['part']}: {plan['data']['items']} "
            f"items (hash {plan['data']['hash']})"
        ),
        "vector": (
            f"{made.get('method', {}).get('name', 'given')} on {made.get('data', {}).get('pairs', '?')} training "
            f"pairs, layers {iv['layers']} (hash {iv['vector']})"
        ),
        "intervention": f"{iv['operator']['name']} at {iv['positions']}, gate {iv['gate']['name']}",
        "multipliers": ", ".join(f"{m:g}" for m in plan["multipliers"]) + _relative(a),
        "controls": ", ".join(controls) or "none",
        "interval": (
            "95 %, over questions (means: Student's t corrected for skewness; shares: Wilson); it does not cover a "
            "new draw of the training items"
        ),
    }
    return out | ({"seconds": f"{a.manifest['seconds']:.0f}"} if a.manifest.get("seconds") else {})


def _relative(a: Analysis) -> str:
    """How large the edit is beside what it edits."""
    norms, residual = a.manifest.get("norms"), a.manifest.get("residual")
    if not norms or not residual:
        return ""
    shares = [norms[k] / residual[k] for k in norms if residual.get(k)]
    return f" (times a vector of {max(shares):.0%} of the median residual norm)" if shares else ""


def _subtitle(a: Analysis) -> str:
    layer = f"layer {a.manifest['layer']}, " if a.manifest.get("layer") is not None else ""
    return (
        f"{layer}{len(a.vector.items)} test items, multipliers {a.vector.multipliers[0]:g} to "
        f"{a.vector.multipliers[-1]:g}, propensity in {a.unit}"
    )


def _cells(f: Figure) -> list[str]:
    bounds = "" if math.isnan(f.lo) else f"{f.lo:.3f} to {f.hi:.3f}"
    # of slopes the strongest control counts, of all else their mean
    which = "strongest" if f.name == "steerability" else "mean"
    beside = "" if f.control is None else f"{f.control:.3f} ({which})"
    return [f.name, f"{f.value:.3f}", bounds, str(f.n or ""), f.unit, beside]


def _figure_table(figures: Sequence[Figure]) -> str:
    head = "<tr><th>figure</th><th class='num'>value</th><th class='num'>95 % interval</th><th class='num'>n</th>"
    head += "<th>unit</th><th class='num'>controls</th></tr>"
    rows = "".join(f"<tr>{_figure_cells(f)}</tr>" for f in figures)
    return f"<table>{head}{rows}</table>"


def _figure_cells(f: Figure) -> str:
    """The cells of a figure in HTML."""
    kinds = ("", " class='num'", " class='num'", " class='num'", "", " class='num'")
    return "".join(f"<td{k}>{escape.escape(c)}</td>" for k, c in zip(kinds, _cells(f), strict=True))


def _html_row(cells: Sequence[str], kind: str = "") -> str:
    """A row of a table in HTML; `kind` stands in the tag of every cell."""
    return "<tr>" + "".join(f"<td{kind}>{escape.escape(c)}</td>" for c in cells) + "</tr>"


def _first_answers(a: Analysis) -> dict[str, dict[float, str]]:
    """The first answers, by prompt and multiplier; all of them are in generations.jsonl."""
    out: dict[str, dict[float, str]] = {}
    for g in a.generations:
        out.setdefault(g["prompt"], {})[g["multiplier"]] = sentences_of(g["text"])
    return {p: dict(sorted(r.items())) for p, r in list(out.items())[:SHOWN]}


def sentences_of(text: str) -> str:
    """A text that was cut somewhere, in whole sentences: up to the end of its last one, if it has any."""
    flat = " ".join(text.split())
    # the number of an item of a list ends no sentence
    ends = [m.end() for m in re.finditer(r"(\S*)[.!?:…][\"')\]*]*(?=\s|$)", flat) if not re.fullmatch(r"\d{1,2}", m[1])]
    return flat if ends and ends[-1] == len(flat) else flat[: ends[-1]] + " …" if ends else flat + " …"


def _use_section(a: Analysis) -> str:
    """How to use the vector: what is recommended, the price of each multiplier, and lines to copy."""
    if a.use is None:
        return ""
    e = escape.escape
    why = "".join(f"<li>{e(w)}</li>" for w in a.use.why)
    head, *rows = dose_rows(a.use)
    table = "".join(f"<th class='num'>{e(c)}</th>" for c in head)
    body = "".join(_html_row(r, " class='num'") for r in rows)
    shown = f"<div class='wide'><table><tr>{table}</tr>{body}</table></div>" if rows else ""
    code = "".join(f"<h3>{e(k)}</h3><pre>{e(v)}</pre>" for k, v in snippets(a.use, a.model, a.blocks, a.file).items())
    return f"<h2>{_use_title(a)}</h2><ul>{why}</ul>{shown}{code}"


def _use_title(a: Analysis) -> str:
    """A vector that is not to be used has a dose all the same."""
    return "Use this vector" if a.kind in ("works", "works backwards", "no verdict", "too few items") else "Its dose"


def _use_lines(a: Analysis) -> list[str]:
    if a.use is None:
        return []
    head, *rows = dose_rows(a.use)
    lines = [f"## {_use_title(a)}", "", *(f"- {w}" for w in a.use.why), ""]
    if rows:
        lines += ["| " + " | ".join(r).replace("|m v|/|h|", "m v / h") + " |" for r in [head]]
        lines += ["|---:" * len(head) + "|", *("| " + " | ".join(r) + " |" for r in rows), ""]
    for name, code in snippets(a.use, a.model, a.blocks, a.file).items():
        lines += [f"{name}:", "", "```", code.rstrip(), "```", ""]
    return lines


def _answer_table(a: Analysis) -> str:
    answers = _first_answers(a)
    if not answers:
        return ""
    multipliers = sorted({m for row in answers.values() for m in row})
    head = "<th>prompt</th>" + "".join(f"<th>{m:+g}</th>" if m else "<th>unsteered</th>" for m in multipliers)
    body = ""
    for p, r in answers.items():
        cells = "".join(f"<td data-m='{m:+g}'>{escape.escape(r.get(m, ''))}</td>" for m in multipliers)
        body += f"<tr><td><b>{escape.escape(p)}</b></td>{cells}</tr>"
    return (
        "<h2>What it says</h2><p class='sub'>Greedy, by multiplier; cut at the last whole sentence.</p>"
        f"<div class='wide'><table class='said'><tr>{head}</tr>{body}</table></div>"
    )


def _fact_table(a: Analysis) -> str:
    rows = "".join(f"<tr><th>{escape.escape(k)}</th><td>{escape.escape(str(v))}</td></tr>" for k, v in facts(a).items())
    return f"<table>{rows}</table>"


def unique(svg: str, name: str) -> str:
    """Ids made unique in the page: plots share glyph and clip names."""
    out: Any = svg
    for mark in ('id="', 'href="#', "url(#"):
        out = out.replace(mark, f"{mark}{name}-")
    return out


Rows = Sequence[Sequence[str]]


def one_line(text: str, most: int | None = None) -> str:
    """A text as a cell of a table."""
    return " ".join(text.split())[:most].replace("|", "/")


def markdown_sections(
    title: str, about: str, found: Sequence[str], plots: Mapping[str, Plot], sections: Sequence[tuple[str, Rows]]
) -> str:
    """A study as Markdown: what was found, plots (PNG beside it), tables whose first row is the head."""
    out = [f"# {title}", "", *(f"- {h}" for h in found), "", about, ""]
    out += [f"![{p.title}](plots/{k}.png)\n\n*{p.caption}*\n" for k, p in plots.items()]
    for name, rows in sections:
        if len(rows) > 1:
            table = ["| " + " | ".join(r) + " |" for r in rows]
            out += [f"## {name}", "", table[0], "|---" * len(rows[0]) + "|", *table[1:], ""]
    return "\n".join(out)


def html_sections(
    title: str, about: str, found: Sequence[str], plots: Mapping[str, Plot], sections: Sequence[tuple[str, Rows]]
) -> str:
    """A study as one HTML file that needs nothing else."""
    e = escape.escape
    figures = "".join(
        f"<figure><h3>{e(p.title)}</h3>{unique(p.svg, k)}<figcaption>{e(p.caption)}</figcaption></figure>"
        for k, p in plots.items()
    )
    body = [
        f"<h1>{e(title)}</h1>",
        f"<section class='verdict'><ul>{''.join(f'<li>{e(h)}</li>' for h in found)}</ul></section>",
        f"<p class='sub'>{e(about)}</p>",
        f"<h2>Plots</h2><div class='plots'>{figures}</div>",
    ]
    for name, rows in sections:
        if len(rows) > 1:
            head = "".join(f"<th>{e(c)}</th>" for c in rows[0])
            cells = "".join(_html_row(r) for r in rows[1:])
            body.append(f"<h2>{e(name)}</h2><div class='wide'><table><tr>{head}</tr>{cells}</table></div>")
    return document(title, "".join(body))


def write_sections(
    run: Run,
    title: str,
    about: str,
    findings: Sequence[str],
    plots: Mapping[str, Plot],
    sections: Sequence[tuple[str, Rows]],
    figures: Sequence[Figure],
) -> Path:
    """Write report.md, report.html, summary.json and the plots of a study into its folder.

    Args:
        findings: what was found, in sentences; the page opens with them.
        figures: the same as numbers, for machines.


    Returns:
        The path of report.html.
    """
    for name, plot in plots.items():
        run.write(f"plots/{name}.svg", plot.svg)
        run.file("plots", f"{name}.png").write_bytes(plot.png)
    run.write("summary.json", plain({"name": title, "findings": list(findings), "figures": list(figures)}))
    run.write("report.md", markdown_sections(title, about, findings, plots, sections))
    return run.write("report.html", html_sections(title, about, findings, plots, sections))
