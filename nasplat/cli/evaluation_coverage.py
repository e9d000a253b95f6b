"""The coverage of intervals in the report of `nasplat predictor evaluate`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.markup import escape

from nasplat.cli.console import out, print_table
from nasplat.proportion import half_width, wilson
from nasplat.surrogates.intervals import CORRECTED_LEVEL, FOLDS, LEVELS
from nasplat.surrogates.ranking_metrics import Interval, Trial

NONE = "-"
"""What tables show where there is no figure."""


def summarized_coverage(trials: Sequence[Trial], correct: bool) -> dict[str, Any]:
    """Coverage of the intervals over splits, and why there is none; `correct` adds that of corrected deviations.

    Wilson's intervals are for the number of architectures that one split holds out: other splits hold out the same
    architectures again. `half` is for the variation between splits, as of the other metrics.
    """
    earlier = "a trial was recorded by a version that measured no coverage; give another --out"
    problems = {earlier if trial.intervals is None else trial.intervals.problem for trial in trials}
    found = [each for trial in trials if (each := trial.intervals) is not None and each.inside is not None]
    row: dict[str, Any] = {
        "n": float(np.mean([each.n for each in found])) if found else None,
        "splits": len(found),
        "coverage": _shares([(each.inside, each.n) for each in found if each.inside is not None]),
    }
    if correct:
        fixed = [each for each in found if each.factor is not None]
        factors = [each.factor for each in fixed if each.factor is not None]
        row["corrected"] = {
            "factor": asdict(Interval.of(factors)) if factors else None,
            "splits": len(fixed),
            "coverage": _shares([(each.corrected, each.n) for each in fixed if each.corrected is not None]),
        }
    elif found:  # what hinders a correction is no problem of the coverage
        problems -= {each.problem for each in found}
    return {**row, "problems": sorted(problems - {""})}


def _shares(counts: Sequence[tuple[Sequence[int], int]]) -> list[dict[str, float]] | None:
    """Mean share for each level, from counts and their number in each split; None if there are no splits."""
    if not counts:
        return None
    n, rows = float(np.mean([number for _, number in counts])), []
    for place, level in enumerate(LEVELS):
        share = Interval.of([inside[place] / number for inside, number in counts])
        low, high = map(float, wilson(share.mean, n))
        rows.append({"level": level, "share": share.mean, "low": low, "high": high, "half": share.half})
    return rows


def print_coverage(summary: Sequence[Mapping[str, Any]], correct: bool) -> None:
    """Print one table of the coverage, what its columns mean, and why predictors have none."""
    rows: list[list[str]] = []
    reasons: dict[str, None] = {}
    for row in summary:
        found, name = row["intervals"], row["predictor"]
        if not row["splits"]:
            continue
        parts = [(found["splits"], "1", found["coverage"])]
        if correct and found["coverage"] is not None:
            fixed = found["corrected"]
            parts.append((fixed["splits"], _factor(fixed["factor"]), fixed["coverage"]))
        for number, factor, shares in parts:
            cells = [_share(each) for each in shares] if shares else [NONE] * len(LEVELS)
            rows.append([str(row["size"]), name, str(number), *[factor if shares else NONE] * correct, *cells])
        for problem in found["problems"]:
            reasons[f"{name}: {problem}"] = None
    if not rows:
        return
    levels = [f"{100 * level:.0f} %" for level in LEVELS]
    widths = ", ".join(f"{half_width(level):.2f}" for level in LEVELS)
    print_table(
        "Coverage: the share of scores in the central intervals, and its 95 % interval (Wilson), without duplicates",
        ["trained on", "predictor", "splits", *["factor"] * correct, *levels],
        rows,
    )
    out.print(f"Intervals are normal: estimate ± {widths} deviations.", highlight=False)
    if correct:
        level = f"{100 * CORRECTED_LEVEL:.0f} %"
        out.print(
            f"The factor multiplies the deviations. It is fitted so that the {level} interval covers {level} of other "
            f"held-out architectures: of {FOLDS} folds, all but the one that it is applied to.",
            highlight=False,
        )
    for reason in reasons:
        out.print(escape(reason), highlight=False)
    out.print()


def _factor(interval: Mapping[str, float] | None) -> str:
    if interval is None:
        return NONE
    mean, half = interval["mean"], interval["half"]
    return f"{mean:.3g}" + (f" ± {half:.3g}" if half == half else "")


def _share(found: Mapping[str, float]) -> str:
    return f"{found['share']:.3f} ({found['low']:.3f} to {found['high']:.3f})"
