"""Measures of the house, over every file of the library: python design/house.py [FOLDER]

Functions (lines: median, nine in ten, longest), comments per hundred lines of code, lines over 120 characters,
comprehensions (and those inside another), annotated functions, and the import graph at file level: arrows, and
circles, lazy and type-only imports included.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1] / "src" / "trimtab"
LOOPS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def sources(root: Path = ROOT) -> dict[str, ast.Module]:
    """Dotted module name -> its tree."""
    out: dict[str, ast.Module] = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        out[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_text("utf-8"))
    return out


def imports(trees: dict[str, ast.Module]) -> dict[str, set[str]]:
    """Module -> the modules of the library that it imports anywhere: on top, in a function, or for types alone."""
    return {
        name: {found for node in ast.walk(tree) for found in _imported(node, trees)} - {name}
        for name, tree in trees.items()
    }


def _imported(node: ast.AST, known: dict[str, ast.Module]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in known)
    elif isinstance(node, ast.ImportFrom) and node.module in known:
        inner = [f"{node.module}.{alias.name}" for alias in node.names]
        modules = [name for name in inner if name in known]
        yield from modules
        if len(modules) < len(inner):  # a name of the package itself
            yield node.module


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, however far around (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    out: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(arrows[name]):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                out.append(sorted(group))

    for name in arrows:
        if name not in index:
            visit(name)
    return out


def functions(trees: dict[str, ast.Module]) -> list[int]:
    """Lines of every function and method, its docstring left out, shortest first."""
    return sorted(_lines(n) for tree in trees.values() for n in ast.walk(tree) if isinstance(n, ast.FunctionDef))


def _lines(function: ast.FunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function) is not None and len(function.body) > 1 else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1


def annotated(trees: dict[str, ast.Module]) -> float:
    """Share of functions whose result and every argument (but self, cls) have a type."""
    every = [n for tree in trees.values() for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    typed = [
        f
        for f in every
        if f.returns is not None
        and all(a.annotation or a.arg in ("self", "cls") for a in f.args.args + f.args.kwonlyargs)
    ]
    return len(typed) / len(every)


def comprehensions(trees: dict[str, ast.Module]) -> tuple[int, int]:
    """How many there are, and how many stand inside another."""
    every = [n for tree in trees.values() for n in ast.walk(tree) if isinstance(n, LOOPS)]
    nested = {id(inner) for n in every for inner in ast.walk(n) if inner is not n and isinstance(inner, LOOPS)}
    return len(every), len(nested)


def text(root: Path = ROOT) -> tuple[int, int, int]:
    """Lines of code (neither blank, nor comment, nor docstring), comments, and lines over 120 characters."""
    code = comments = long = 0
    for path in sorted(root.rglob("*.py")):
        raw = path.read_text("utf-8")
        long += sum(len(line) > 120 for line in raw.split("\n"))
        words = list(tokenize.generate_tokens(io.StringIO(raw).readline))
        comments += sum(
            t.type == tokenize.COMMENT and not t.string.startswith(("# noqa", "# pyright", "# type:", "# fmt"))
            for t in words
        )
        silent = {n for node in ast.walk(ast.parse(raw)) for n in _docstring(node)}
        code += len(
            {t.start[0] for t in words if t.type in (tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING)}
            - silent
        )
    return code, comments, long


def _docstring(node: ast.AST) -> range:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
        return range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)
    return range(0)


def main(root: Path) -> None:
    trees = sources(root)
    lengths, (code, comments, long), (loops, nested) = functions(trees), text(root), comprehensions(trees)
    graph = imports(trees)
    print(
        f"files {len(trees)}, at the top {len(list(root.glob('*.py')))}, folders "
        f"{len([p for p in root.iterdir() if (p / '__init__.py').is_file()])}"
    )
    print(
        f"function lines: median {lengths[len(lengths) // 2]}, nine in ten {lengths[9 * len(lengths) // 10]}, "
        f"longest {lengths[-1]}"
    )
    print(f"comments per 100 lines of code: {100 * comments / code:.1f} ({comments} of {code})")
    print(f"lines over 120 characters: {long}")
    print(
        f"comprehensions per 100 lines: {100 * loops / code:.1f}, inside another {100 * nested / code:.2f} ({nested})"
    )
    print(f"annotated functions: {annotated(trees):.1%}")
    print(f"imports between files: {sum(map(len, graph.values()))}; circles: {circles(graph) or 'none'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
