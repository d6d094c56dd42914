"""Operators that ONNX Runtime's CUDA provider computes in float16, by version.

Source: docs/OperatorKernels.md of microsoft/onnxruntime, section CUDAExecutionProvider, at commit 001d12d2623f. ``19+``
there is the kernel of version 19 only: a kernel without a last version fits no later version of its operator
(onnxruntime/core/framework/kernel_registry.cc).
"""

from __future__ import annotations

import onnx

#: Versions of an operator, as its ONNX schema counts them, that have a float16 kernel, or that move bytes of any type.
FLOAT16: dict[str, str] = {
    **dict.fromkeys(
        ["Abs", "Neg", "Sigmoid", "Tanh", "Exp", "Erf", "Log", "Sqrt", "Reciprocal", "Floor", "Ceil"], "6-12 13"
    ),
    **dict.fromkeys(["Add", "Sub", "Mul", "Div"], "7-12 13 14"),
    **dict.fromkeys(["ArgMax", "ArgMin"], "1-11 12 13"),
    "BatchNormalization": "7-8 9-13 14 15",
    "Cast": "6-8 9-12 13-18 19-20 21-22 23",
    **dict.fromkeys(["Clip", "Max", "Min"], "12 13"),
    "Concat": "4-10 11-12 13",
    "ConstantOfShape": "9",
    "Conv": "1-10 11-21 22",
    "ConvTranspose": "1-10 11",
    "AveragePool": "7-9 10 11-18 19-21 22",
    "MaxPool": "1-7 8-9 10 11 12",
    **dict.fromkeys(["GlobalAveragePool", "GlobalMaxPool"], "1"),
    "CumSum": "14",
    "DepthToSpace": "1-10 11-12 13",
    "SpaceToDepth": "1-12 13",
    **dict.fromkeys(["QuantizeLinear", "DequantizeLinear"], "19-20 21"),
    "Einsum": "12",
    **dict.fromkeys(["Elu", "Selu", "InstanceNormalization"], "6"),
    "Equal": "11-12 13",
    **dict.fromkeys(["Greater", "Less"], "7-8 9-12 13"),
    **dict.fromkeys(["GreaterOrEqual", "LessOrEqual"], "12-15 16"),
    "Expand": "8-12 13",
    "Flatten": "1-8 9-10 11-12 13",
    "Gather": "1-10 11-12 13",
    "GatherElements": "11-12 13",
    "GatherND": "11 12 13",
    "Gelu": "20",
    "Gemm": "7-8 9-10 11-12 13",
    "MatMul": "1-8 9-12 13",
    "HardSigmoid": "6-21 22",
    "HardSwish": "14-21 22",
    "Identity": "1-12 13 14-18 19",
    "IsInf": "20",
    "IsNaN": "9-12 13-19 20",
    "LRN": "1-12 13",
    "LayerNormalization": "17",
    "LeakyRelu": "6-15 16",
    **dict.fromkeys(["LogSoftmax", "Softmax"], "1-10 11-12 13"),
    "Mod": "10-12 13",
    **dict.fromkeys(["Not", "Softplus", "Softsign"], "1"),
    "PRelu": "7-8 9-15 16",
    "Pad": "2-10 11-12 13-17 18",
    "Pow": "7-11 12 13-14 15",
    **dict.fromkeys(["ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"], "1-17 18"),
    **dict.fromkeys(["ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd"], "1-17 18"),
    "ReduceSum": "1-12 13",
    "Relu": "6-12 13 14",
    "Reshape": "1-4 5-12 13 14-18 19-20 21-22 23",
    "Resize": "10 11-12 13-17 18 19",
    "Round": "11",
    **dict.fromkeys(["ScatterElements", "ScatterND"], "11-12 13-15 16-17 18"),
    "Shape": "1-12 13-14 15-18 19-20 21-22 23",
    "Sign": "9-12 13",
    **dict.fromkeys(["Sin", "Cos"], "7"),
    "Slice": "1-9 10 11-12 13",
    "Split": "2-10 11-12 13-17 18",
    **dict.fromkeys(["Squeeze", "Unsqueeze"], "1-10 11-12 13-20 21-22 23"),
    "Sum": "6-7 8-12 13",
    "Tile": "6-12 13",
    "TopK": "1-9 10 11",
    "Transpose": "1-12 13-20 21-22 23",
    "Where": "9-15 16",
}


def has_float16(operator: str, opset: int) -> bool:
    """Whether CUDA has a float16 kernel for the version of an operator that an opset has."""
    version = onnx.defs.get_schema(operator, max_inclusive_version=opset).since_version
    limits = (part.partition("-") for part in FLOAT16.get(operator, "").split())
    return any(int(first) <= version <= int(last or first) for first, _, last in limits)
