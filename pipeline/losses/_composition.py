"""Several losses as one."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.losses._base import DistillationLoss
from pipeline.models import SegOutput


class Composition(DistillationLoss):
    """The terms of several losses; each has the weights of its own options.

    Args:
        parts: losses by name, at least two.

    Shapes: as the parts take them; returns the terms of all.

    Raises:
        UserError: in ``forward``, when two losses have a term of the same name: one would overwrite the other.
    """

    def __init__(self, parts: Mapping[str, DistillationLoss]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(dict(parts))
        self.uses_teacher = any(part.uses_teacher for part in parts.values())  # type: ignore[misc]
        self.imitates_probabilities = any(part.imitates_probabilities for part in parts.values())  # type: ignore[misc]
        self.uses_labels = any(part.uses_labels for part in parts.values())  # type: ignore[misc]
        self.uses_auxiliary = any(part.uses_auxiliary for part in parts.values())  # type: ignore[misc]
        self.reads = sorted({field for part in parts.values() if part.uses_teacher for field in part.reads})
        self._until = max(part.until for part in parts.values())
        self.term_weights = {term: weight for part in parts.values() for term, weight in part.term_weights.items()}

    @property
    def until(self) -> float:
        return self._until

    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        owners: dict[str, str] = {}
        for name, part in self.parts.items():
            for term, value in part(student, teacher, target).items():
                if term in terms:
                    raise UserError(
                        f"losses {owners[term]} and {name} both have a term '{term}'; use one of them, or rename the "
                        f"term in pipeline/losses/{name}.py"
                    )
                terms[term], owners[term] = value, name
        return terms
