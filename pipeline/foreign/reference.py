"""What a foreign file computes by itself: the measure of every graph that is made from it.

It shares nothing with those graphs: the unchanged file, run by ONNX Runtime, with preprocessing, upsampling, threshold
and argmax in NumPy and OpenCV.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime
from onnx import helper

from pipeline.errors import UserError
from pipeline.foreign import floats, output, reading
from pipeline.foreign.description import Description
from pipeline.frames import Array

#: How far from a whole number an id may be.
WHOLE = 1e-3
#: As many different values as this, and beyond what classes need, are no ids.
MANY = 16


class Reference:
    """The file that a description names, and real frames.

    Args:
        frames: (H, W, 3) BGR uint8 of the input size.

    Attributes:
        half: whether the file computes in float16, so that its results are only that exact.
        whole: whether the file gives whole numbers; known after the first of :meth:`results`.
        strange: values in label maps that stand for no class, and how many pixels have them.
        seen: those that stand for one.

    Raises:
        UserError: ONNX Runtime cannot run the file.
    """

    def __init__(self, description: Description, frames: Sequence[Array]) -> None:
        model = reading.whole(description.model)  # in memory: ONNX Runtime reads no shapes from other files
        weights = {tensor.name for tensor in model.graph.initializer}
        if len([value for value in model.graph.input if value.name not in weights]) > 1:  # of other heads
            head = reading.head(model, description.model, name=description.head)
            reading.extract(model, description.model, head=head)
        self.image = next(value for value in model.graph.input if value.name not in weights)
        self.head = description.head or model.graph.output[0].name
        self.half = floats.holds_float16(model)
        self.whole = False
        self.strange: Counter[float] = Counter()
        self.seen: set[int] = set()
        self.description = description
        self.frames = frames
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises its own types, one for each status code
            raise self._cannot_run(error) from error

    def results(self) -> Iterator[tuple[Array, npt.NDArray[Any]]]:
        """Each frame and what the file gives for it: logits (K, h, w) in float32, or a map (h, w).

        Raises:
            UserError: the file does not run, or gives NaN.
        """
        kind = self.image.type.tensor_type
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        for index, frame in enumerate(self.frames):
            image = to_input(frame, self.description)
            image = np.rint(image) if dtype.kind in "iu" else image
            image = image[0] if len(kind.shape.dim) == 3 else image
            try:
                result = np.asarray(self.session.run([self.head], {self.image.name: image.astype(dtype)})[0])
            except Exception as error:  # see above
                raise self._cannot_run(error) from error
            self.whole = result.dtype.kind in "iu"
            size = (frame.shape[0], frame.shape[1])
            form = output.form(result.shape, result.dtype, self.description, image=size)
            if result.dtype.kind == "f" or form.channels:
                result = result.astype(np.float32)
                self._require_numbers(result, index, enlarged=bool(form.channels) and form.size != size)
            yield frame, form.planes(result)

    def labels(self, result: npt.NDArray[Any], *, size: tuple[int, int]) -> Array:
        """Label map (height, width) of ``size`` from one of :meth:`results`."""
        if result.ndim == 2:
            return self._classes(result)
        scores = [cv2.resize(plane, size[::-1], interpolation=cv2.INTER_LINEAR) for plane in result]
        if len(scores) > 1:
            return np.asarray(np.argmax(scores, axis=0), np.uint8)
        assert self.description.threshold is not None
        return np.asarray(scores[0] > np.float32(self.description.threshold), np.uint8)

    def range(self) -> tuple[float, float]:
        """Lowest and highest value that the file gives on the frames."""
        ends = [(float(result.min()), float(result.max())) for _, result in self.results()]
        return min(low for low, _ in ends), max(high for _, high in ends)

    def require_classes(self) -> None:
        """Raise UserError where label maps held values that are no class."""
        if not self.strange:
            return
        names, model = self.description.labels.names, self.description.model
        values = sorted(self.strange)
        shown = ", ".join(f"{value:.6g}" for value in values[:8]) + (", ..." if len(values) > 8 else "")
        if any(abs(value - round(value)) > WHOLE for value in values):
            raise UserError(
                f"{model}: gives values that are no whole numbers ({shown}); a label map holds class ids. For one "
                "channel of probabilities or scores say `output: logits`, and `threshold: ...` where the second class "
                "does not begin at 0.5 or 0"
            )
        if len(values) > max(MANY, len(names)):
            raise UserError(
                f"{model}: gives {len(values)} values that are no class ({shown}); if they are scores and not ids, "
                "say `output: logits` with the `threshold` above which the second class is"
            )
        known = self.description.classes_of
        binary = len(names) == output.BINARY and len(values) == 1 and 1 not in self.seen  # 0 and something else
        example = f"{names[1]}: [{values[0]:.0f}]" if binary else f"{names[0]}: [...], {names[1]}: [...]"
        raise UserError(
            f"{model}: gives ids {shown}, which are no class; the {len(names)} classes have the ids "
            f"{', '.join(str(value) for value in sorted(known))}. Name all classes of the network, or say in "
            f"{self.description.file} which ids stand for them: `ids: {{{example}}}`"
        )

    def _classes(self, ids: npt.NDArray[Any]) -> Array:
        """Class of each pixel of a map; the ignored id, and a count, where a value is no class."""
        classes, ignored = self.description.classes_of, self.description.labels.ignore_index
        values, places, counts = np.unique(ids, return_inverse=True, return_counts=True)
        found = [
            classes.get(round(value), -1) if abs(value - round(value)) <= WHOLE else -1 for value in values.tolist()
        ]
        for value, count, index in zip(values.tolist(), counts.tolist(), found, strict=True):
            if index < 0:
                self.strange[float(value)] += count
            else:
                self.seen.add(round(value))
        table = np.array([ignored if index < 0 else index for index in found], np.uint8)
        return np.asarray(table[places].reshape(ids.shape), np.uint8)

    def _require_numbers(self, result: npt.NDArray[np.float32], index: int, *, enlarged: bool) -> None:
        where = f"values of output '{self.head}' on frame {index + 1} of {len(self.frames)}"
        if broken := int(np.isnan(result).sum()):
            raise UserError(
                f"{self.description.model}: the file itself gives NaN, before any conversion: {broken} of "
                f"{result.size} {where}; look for a logarithm, root or division at the network's end, and whether mean "
                f"and std in {self.description.file} are those of its training; else {reading.AGAIN} from a checkpoint "
                "that works"
            )
        if enlarged and (infinite := int(np.isinf(result).sum())):
            raise UserError(
                f"{self.description.model}: the file itself gives infinity for {infinite} of {result.size} {where}, "
                f"and such a map cannot be enlarged to the image; {reading.AGAIN} with logits, not their logarithm"
            )

    def _cannot_run(self, error: Exception) -> UserError:
        return UserError(
            f"{self.description.model}: ONNX Runtime {onnxruntime.__version__} cannot run it: {reading.line(error)}; "
            f"{reading.AGAIN} in float32 with standard operators"
        )


def to_input(frame: Array, description: Description) -> npt.NDArray[np.float32]:
    """(H, W, 3) BGR uint8 -> the image of the description, (1, 3, H, W) or (1, H, W, 3) float32."""
    pixels = frame[..., ::-1] if description.channel_order == "RGB" else frame
    image = (pixels.astype(np.float64) / 255 - description.mean) / description.std
    if description.layout == "NCHW":
        image = image.transpose(2, 0, 1)
    return np.ascontiguousarray(image[np.newaxis], np.float32)
