"""The results of an imported network's own ONNX file: the reference for every graph that is built from it.

It shares no code with those graphs: ONNX Runtime runs the unchanged file; preprocessing, upsampling, threshold and
argmax are in NumPy and OpenCV.
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
from pipeline.frames import Array
from pipeline.imported import floats, output, reading
from pipeline.imported.description import Description

#: Largest distance of an id from a whole number.
WHOLE = 1e-3
#: More different unknown values than this, and more than there are classes, cannot be ids.
MANY = 16


class Reference:
    """The ONNX file of a description, and real frames.

    Args:
        frames: (H, W, 3) BGR uint8 of the input size.

    Attributes:
        half: whether the file computes in float16, so that its results are less exact.
        whole: whether the file's results are integers; known after the first of :meth:`results`.
        unknown: values in label maps that mean no class, and how many pixels have them.
        known: values in label maps that mean a class.

    Raises:
        UserError: ONNX Runtime cannot run the file.
    """

    def __init__(self, description: Description, frames: Sequence[Array]) -> None:
        model = reading.whole(description.model)  # in memory: ONNX Runtime cannot read shapes from external data
        weights = {tensor.name for tensor in model.graph.initializer}
        if len([value for value in model.graph.input if value.name not in weights]) > 1:  # other heads need them
            head = reading.head(model, description.model, name=description.head)
            reading.extract(model, description.model, head=head)
        self.image = next(value for value in model.graph.input if value.name not in weights)
        self.head = description.head or model.graph.output[0].name
        self.half = floats.holds_float16(model)
        self.whole = False
        self.unknown: Counter[float] = Counter()
        self.known: set[int] = set()
        self.description = description
        self.frames = frames
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises its own exception types, one per status code
            raise self._cannot_run(error) from error

    def results(self) -> Iterator[tuple[Array, npt.NDArray[Any]]]:
        """Each frame with the file's result for it: logits (K, h, w) in float32, or a map of ids (h, w).

        Raises:
            UserError: ONNX Runtime cannot run the file, or its result has NaN.
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
        """Label map (height, width) of ``size`` for one of :meth:`results`."""
        if result.ndim == 2:
            return self._classes(result)
        scores = [cv2.resize(plane, size[::-1], interpolation=cv2.INTER_LINEAR) for plane in result]
        if len(scores) > 1:
            return np.asarray(np.argmax(scores, axis=0), np.uint8)
        assert self.description.threshold is not None
        return np.asarray(scores[0] > np.float32(self.description.threshold), np.uint8)

    def range(self) -> tuple[float, float]:
        """Lowest and highest value of the file's results on the frames."""
        ends = [(float(result.min()), float(result.max())) for _, result in self.results()]
        return min(low for low, _ in ends), max(high for _, high in ends)

    def require_classes(self) -> None:
        """Raise UserError if label maps had values that mean no class."""
        if not self.unknown:
            return
        names, model = self.description.labels.names, self.description.model
        values = sorted(self.unknown)
        shown = ", ".join(f"{value:.6g}" for value in values[:8]) + (", ..." if len(values) > 8 else "")
        if any(abs(value - round(value)) > WHOLE for value in values):
            raise UserError(
                f"{model}: its output has values that are no whole numbers ({shown}); a label map holds class ids. For "
                "one channel of probabilities or scores write `output: logits`, and `threshold: ...` if the second "
                "class does not begin at 0.5 or 0"
            )
        if len(values) > max(MANY, len(names)):
            raise UserError(
                f"{model}: its output has {len(values)} values that are no class ({shown}); if they are scores and not "
                "ids, write `output: logits`, and as `threshold` the value above which a pixel has the second class"
            )
        allowed = ", ".join(str(value) for value in sorted(self.description.classes_of))
        binary = len(names) == output.BINARY and len(values) == 1 and 1 not in self.known  # 0 and another value
        example = f"{names[1]}: [{values[0]:.0f}]" if binary else f"{names[0]}: [...], {names[1]}: [...]"
        raise UserError(
            f"{model}: its output has ids {shown}, which are no class; the {len(names)} classes have the ids {allowed}"
            f". Name all classes of the network, or list the ids of each class in {self.description.file}: "
            f"`ids: {{{example}}}`"
        )

    def _classes(self, ids: npt.NDArray[Any]) -> Array:
        """Class of each pixel of a map. Values without a class are counted and become the ignored id."""
        classes, ignored = self.description.classes_of, self.description.labels.ignore_index
        values, positions, counts = np.unique(ids, return_inverse=True, return_counts=True)
        indices = [
            classes.get(round(value), -1) if abs(value - round(value)) <= WHOLE else -1 for value in values.tolist()
        ]
        for value, count, index in zip(values.tolist(), counts.tolist(), indices, strict=True):
            if index < 0:
                self.unknown[float(value)] += count
            else:
                self.known.add(round(value))
        table = np.array([ignored if index < 0 else index for index in indices], np.uint8)
        return np.asarray(table[positions].reshape(ids.shape), np.uint8)

    def _require_numbers(self, result: npt.NDArray[np.float32], index: int, *, enlarged: bool) -> None:
        where = f"values of output '{self.head}' on frame {index + 1} of {len(self.frames)}"
        if nans := int(np.isnan(result).sum()):
            raise UserError(
                f"{self.description.model}: the file itself computes NaN, before any conversion: {nans} of "
                f"{result.size} {where}; look for a logarithm, root or division at the network's end, and check that "
                f"mean and std in {self.description.file} are those of its training; else {reading.AGAIN} from a "
                "checkpoint that works"
            )
        if enlarged and (infinite := int(np.isinf(result).sum())):
            raise UserError(
                f"{self.description.model}: the file itself computes infinity: {infinite} of {result.size} {where}; "
                f"such a map cannot be enlarged to the image; {reading.AGAIN} with logits, not their logarithm"
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
