"""Whether a data set and a network have the same classes."""

from __future__ import annotations

from pipeline.artifact import Artifact
from pipeline.errors import UserError
from pipeline.prepared import Prepared


def require_same_classes(prepared: Prepared, network: Artifact) -> None:
    """Raise UserError when a data set has other classes than a network, or the same in another order.

    Args:
        network: any artifact with the network's classes (ONNX, INT8, engine).
    """
    theirs, ours = list(prepared.labels.names), list(network.meta["classes"])
    if theirs != ours:
        raise UserError(
            f"{prepared.artifact.path} has the classes {', '.join(theirs)}; the network of {network.path} has "
            f"{', '.join(ours)}; use the data set of the network, or merge its classes: "
            "segpress import OWN.yaml --until dataset"
        )
