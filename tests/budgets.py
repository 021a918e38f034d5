"""Ceilings where reading begins to hurt. Run as `python tests/budgets.py agent`."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: Lines of a module, lines of a function without its docstring, nested control blocks.
FILE_MAX, FUNCTION_MAX, NESTING_MAX = 600, 60, 4
BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.Match)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Measure:
    where: str
    size: int


def files(root: Path) -> list[Path]:
    return sorted(p for p in root.rglob("*.py") if "migrations/versions" not in p.as_posix())


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines without the docstring."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


def depth(node: ast.AST, level: int = 0) -> int:
    """Deepest control block; an `elif` chain counts once, an inner function starts anew."""
    deepest = level
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (*FUNCTIONS, ast.Lambda, ast.ClassDef)):
            continue
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and child in node.orelse
        inner = level + (isinstance(child, BLOCKS) and not is_elif)
        deepest = max(deepest, depth(child, inner))
    return deepest


def functions(path: Path) -> Iterator[tuple[Measure, Measure]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, FUNCTIONS):
            where = f"{path}:{node.lineno} {node.name}"
            yield Measure(where, length(node)), Measure(where, depth(node))


def complaints(what: str, measures: list[Measure], limit: int) -> list[str]:
    return [f"{what}: {m.where} is {m.size}, limit {limit}" for m in measures if m.size > limit]


def main(root: Path) -> int:
    paths = files(root)
    sizes = [Measure(str(p), len(p.read_text().splitlines())) for p in paths]
    sizes = [m for m in sizes if m.size > 0]
    pairs = [pair for path in paths for pair in functions(path)]
    lengths, depths = [p[0] for p in pairs], [p[1] for p in pairs]
    found = [
        *complaints("files", sizes, FILE_MAX),
        *complaints("functions", lengths, FUNCTION_MAX),
        *complaints("nesting", depths, NESTING_MAX),
    ]
    print(*found, f"{len(sizes)} modules, {sum(m.size for m in sizes)} lines", sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
