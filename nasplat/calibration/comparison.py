"""Calibrators on the same labels: which one is recommended, and what each is worth on pictures that none has seen."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasplat.calibration.asking import Labelled
from nasplat.calibration.calibrators import NAMES, OPERATIONAL, fit
from nasplat.calibration.outputs import Calibrator, Floats, rights
from nasplat.calibration.recommendation import LEAST, Recommendation, recommended
from nasplat.calibration.reliability import Diagram, Figure, diagram, figures
from nasplat.calibration.rounds import Plan
from nasplat.errors import InputError, unknown

FEW = 30
"""With fewer held-out pictures, intervals of figures are too narrow."""


@dataclass(frozen=True)
class Compared:
    """What calibrators are worth.

    Args:
        found: What was labelled.
        recommendation: Which is recommended; None if there are too few labels for one.
        shipped: The name of the calibrator that ships.
        calibrators: All calibrators by name.
        confidence: By their names, the confidences of all operation pictures `[n]`.
        threshold: The confidence from which predictions are acted on.
        figures: For each calibrator its figures on held-out pictures, by name; empty without such pictures.
        notes: What users should know, one line each.
    """

    found: Labelled
    recommendation: Recommendation | None
    shipped: str
    calibrators: Mapping[str, Calibrator]
    confidence: Mapping[str, Floats]
    threshold: float
    figures: Mapping[str, Mapping[str, Figure]]
    notes: tuple[str, ...]

    @cached_property
    def right(self) -> NDArray[np.bool_]:
        """Whether the predictions of held-out pictures are right."""
        found: NDArray[np.bool_] = self.found.outputs.predicted[self.found.held_out] == self.found.held_out_labels
        return found

    def diagram(self, name: str) -> Diagram | None:
        """The reliability diagram of a calibrator on held-out pictures, if there are any."""
        return diagram(self.confidence[name][self.found.held_out], self.right) if len(self.right) else None

    def acted(self, name: str) -> int:
        """How many of all operation pictures have a confidence from the threshold up."""
        return int((self.confidence[name] >= self.threshold).sum())

    def document(self) -> dict[str, Any]:
        """All of it as JSON."""
        labelled, chosen = self.found, self.recommendation
        diagrams = {name: self.diagram(name) for name in dict.fromkeys(("none", self.shipped))}
        return {
            "shipped": self.shipped,
            "recommended": None if chosen is None else {"calibrator": chosen.name, "reason": chosen.reason},
            "cross-validated": None if chosen is None else {name: asdict(s) for name, s in chosen.scores.items()},
            "threshold": self.threshold,
            "labelled": len(labelled.rows),
            "drawn at random": int(labelled.drawn.sum()),
            "right": int(rights(labelled.outputs.take(labelled.rows), labelled.labels).sum()),
            "held out": len(labelled.held_out),
            "operation": labelled.pool,
            "acted on": {name: self.acted(name) for name in diagrams},
            "figures": {name: {key: asdict(each) for key, each in some.items()} for name, some in self.figures.items()},
            "diagrams": {
                name: None if each is None else {key: value.tolist() for key, value in vars(each).items()}
                for name, each in diagrams.items()
            },
            "notes": list(self.notes),
        }


def compared(found: Labelled, plan: Plan, calibrator: str | None = None) -> Compared:
    """Fit all calibrators to the labels, and measure them on held-out pictures.

    Args:
        found: What was labelled.
        plan: How the pictures were chosen.
        calibrator: The calibrator that ships; by default the recommended one.

    Raises:
        InputError: The name is unknown, or there are too few labels for a recommendation.
    """
    if calibrator is not None and calibrator not in NAMES:
        raise InputError(f"{unknown('calibrator', calibrator, NAMES)}; correct --calibrator (calibrator=…)")
    some, labels = found.outputs.take(found.rows), found.labels
    recommendation = None
    if calibrator is None or len(labels) >= LEAST:
        recommendation = recommended(
            some, labels, seed=plan.seed, fair=found.drawn, paper=plan.paper, medoids=_medoids(found)
        )
    fitted = {name: fit(name, some, labels, paper=plan.paper, medoids=_medoids(found)) for name in NAMES}
    confidence = {name: each(found.outputs) for name, each in fitted.items()}
    measured: dict[str, dict[str, Figure]] = {}
    if len(found.held_out):
        right = found.outputs.predicted[found.held_out] == found.held_out_labels
        for name, each in confidence.items():
            measured[name] = figures(each[found.held_out], right, plan.threshold, seed=plan.seed)
    shipped = calibrator or (recommendation.name if recommendation else OPERATIONAL)
    return Compared(found, recommendation, shipped, fitted, confidence, plan.threshold, measured, _notes(found))


def _medoids(found: Labelled) -> Floats | None:
    return None if found.medoids is None else found.outputs.features[found.medoids]


def _notes(found: Labelled) -> tuple[str, ...]:
    notes = list(found.notes)
    right = found.outputs.take(found.rows).predicted == found.labels
    if len(set(found.labels.tolist())) == 1:
        notes.append(
            "all labelled pictures are of one class, so that nothing is known of the others; label pictures of all"
        )
    if right.all() or not right.any():
        notes.append(
            f"all {len(right)} labelled predictions are {'right' if right.all() else 'wrong'}, so that nothing tells "
            "the others apart; raise --budget (budget=…)"
        )
    if not len(found.held_out):
        notes.append(
            "there are no figures, since they need labels that no calibrator has seen; add --held-out 100 (held_out=…)"
        )
    elif len(found.held_out) < FEW:
        notes.append(
            f"figures are of only {len(found.held_out)} pictures, so that their intervals are too narrow; raise "
            "--held-out (held_out=…)"
        )
    return tuple(notes)
