"""float16 simulated on a CPU, against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from pipeline.quantization.half_rounding import rounded
from tests.quantization.half_files import copied, labels, scaled_up_and_down, unprotected


def test_rounded_graphs_give_the_results_of_numpy_in_float16(make: Any, frames: Any, evaluate: Any) -> None:
    """ONNX's reference evaluator computes in float16 and shares no code with ONNX Runtime: infinities are equal."""
    half = unprotected(make(None, scaled_up_and_down))
    names = ["a_relu", "large", "b_relu", "small", "c_relu", "logits"]
    for frame in frames:
        simulated = evaluate(rounded(half), frame, names)
        watched = copied(half)
        watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        with np.errstate(all="ignore"):
            expected = dict(zip(names, ReferenceEvaluator(watched).run(names, {"frames": frame[None]}), strict=True))
        assert np.isinf(expected["large"]).mean() > 0.1
        for name in ("a_relu", "large"):
            wanted = expected[name].astype(np.float32)
            assert np.array_equal(np.isinf(simulated[name]), np.isinf(wanted)), name
            finite = np.isfinite(wanted)
            np.testing.assert_allclose(
                simulated[name][finite], wanted[finite], atol=np.abs(wanted[finite]).max() * 2**-9
            )
        assert np.array_equal(np.isnan(simulated["logits"]), np.isnan(expected["logits"]))


def test_overflow_shows_in_float16_and_not_on_the_cpu(make: Any, frames: Any) -> None:
    model = make(None, scaled_up_and_down)
    half = unprotected(model)
    expected = labels(model, frames)
    assert (labels(half, frames) == expected).mean() > 0.99  # ONNX Runtime computes it in float32
    assert (labels(rounded(half), frames) == expected).mean() < 0.7
