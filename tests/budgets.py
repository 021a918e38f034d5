"""Size budgets of the code: files, functions, nesting. Run as `python tests/budgets.py agent`."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FILE_MEDIAN, FILE_95, FILE_MAX = 130, 450, 600
FUNCTION_95, FUNCTION_MAX = 35, 70
NESTING_95, NESTING_MAX = 3, 4
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


def percentile(measures: list[Measure], share: float) -> int:
    ordered = sorted(m.size for m in measures)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def complaints(
    what: str, measures: list[Measure], limits: list[tuple[float, int]], hard: int
) -> list[str]:
    found = [
        f"{what}: {share:.0%} percentile is {percentile(measures, share)}, budget {limit}"
        for share, limit in limits
        if percentile(measures, share) > limit
    ]
    found += [f"{what}: {m.where} is {m.size}, hard stop {hard}" for m in measures if m.size > hard]
    return found


def main(root: Path) -> int:
    paths = files(root)
    sizes = [Measure(str(p), len(p.read_text().splitlines())) for p in paths]
    sizes = [m for m in sizes if m.size > 0]
    pairs = [pair for path in paths for pair in functions(path)]
    lengths, depths = [p[0] for p in pairs], [p[1] for p in pairs]
    found = [
        *complaints("files", sizes, [(0.5, FILE_MEDIAN), (0.95, FILE_95)], FILE_MAX),
        *complaints("functions", lengths, [(0.95, FUNCTION_95)], FUNCTION_MAX),
        *complaints("nesting", depths, [(0.95, NESTING_95)], NESTING_MAX),
    ]
    print(*found, sep="\n", end="\n" if found else "")
    print(
        f"budgets: {len(sizes)} files (median {percentile(sizes, 0.5)}, 95 % "
        f"{percentile(sizes, 0.95)}), {len(lengths)} functions (95 % {percentile(lengths, 0.95)})"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
