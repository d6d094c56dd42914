"""What the numbers of a results file do not say, as sentences for the model card and the report."""

from __future__ import annotations

from pipeline.evaluation.assembly import IMPORTED
from pipeline.reporting.measured import Result
from pipeline.reporting.wording import fixed

#: Classes whose IoU in percent is below this are named as weak (ours).
WEAK = 50.0
#: Splits with fewer images are called small (ours).
FEW = 500
#: Data sets that segpress renders itself.
RENDERED = ("streets",)


def sentences(result: Result) -> list[str]:
    """The limits of the numbers in ``result``, the split first. A value that was not measured gives no sentence."""
    return [*_of_split(result), *_of_classes(result), *_of_device(result)]


def weak_classes(result: Result) -> list[tuple[str, float]]:
    """Classes with an IoU below :data:`WEAK`, the lowest first: of INT8, or of float where INT8 was not measured."""
    ious = result.int8.per_class_iou or result.reference.per_class_iou
    pairs = zip(result.classes, ious, strict=False)
    return sorted(((name, iou) for name, iou in pairs if iou is not None and iou < WEAK), key=lambda pair: pair[1])


def _of_split(result: Result) -> list[str]:
    if not result.split:
        return []
    found = []
    if result.images is not None:
        small = " This is a small split, and rare classes gain or lose points by chance." if result.images < FEW else ""
        found.append(
            f"The figures are from {result.images} images of the split {result.split} of {result.dataset}. They do not "
            f"predict results with other places, cameras, seasons or weather.{small}"
        )
    if result.dataset in RENDERED:
        found.append("All images are drawings. The figures do not predict results on photographs.")
    if result.split == "val" and result.loss == IMPORTED:
        found.append("It is not known whether the network was trained on these images or chosen by them.")
    elif result.split == "val":
        found.append(
            "The best weights were chosen by mIoU on val, the same images. On new images the mIoU is probably lower."
            if result.weights.exported != "last"
            else "The weights of the last step are used, but other choices may have been made by results on val."
        )
    return found


def _of_classes(result: Result) -> list[str]:
    found = []
    if result.absent_classes:
        found.append(f"No image shows these classes, so they were not measured: {', '.join(result.absent_classes)}.")
    if weak := weak_classes(result):
        names = ", ".join(f"{name} ({fixed(iou)})" for name, iou in weak)
        found.append(f"Classes with an IoU below {WEAK:g} are weak: {names}. Do not rely on them.")
    if undecided := [note.class_name or "mIoU" for note in result.undecided]:
        found.append(f"There are too few frames to decide whether these keep their budgets: {', '.join(undecided)}.")
    return found


def _of_device(result: Result) -> list[str]:
    if result.int8.miou is None:
        return ["INT8 accuracy, latency and size were not measured with this network."]
    name = result.device.get("name", "one device")
    found = [f"Latency and speed-up are those of {name}. Other devices, runtimes and loads give other numbers."]
    if result.unstable:
        found.append(f"The latency of {', '.join(result.unstable)} was unstable. Measure it again on a quiet machine.")
    kernels = result.device.get("int8_kernels")
    where = f"the {kernels} kernels of {name}" if kernels else name
    agreement = result.int8_exact_agreement
    compared = (
        "They were not compared with exact arithmetic."
        if agreement is None
        else f"{fixed(agreement, 2)} % of them are equal to those of exact arithmetic."
    )
    return [*found, f"INT8 labels are those of {where}. {compared} Other kernels may give other labels."]
