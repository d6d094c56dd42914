"""Exported files are reproducible, hold facts but no traces of the machine, and must agree with torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from pipeline import artifact
from pipeline.errors import UserError
from pipeline.export import parity
from pipeline.export.export import export_network
from pipeline.labels import LabelSpec
from pipeline.models import NetworkFacts, SegNetwork, SegOutput
from tests.export.conftest import write_deploy_graph

ROOT = Path(__file__).parents[2]
FILES = ("core.onnx", "fp32.onnx", "fp16.onnx")
#: With the weights that the fixture ``tiny`` has.
AGAIN = """
import sys
from pathlib import Path
import torch
from tests.export.conftest import Tiny, write_deploy_graph
torch.set_num_threads(1)
torch.manual_seed(3)
write_deploy_graph(Tiny().eval(), Path(sys.argv[1]))
"""


def test_exports_in_one_process_and_in_another_have_the_same_bytes(tiny: SegNetwork, tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        write_deploy_graph(tiny, tmp_path / name)
    command = [sys.executable, "-c", AGAIN, str(tmp_path / "c.onnx")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)
    assert result.returncode == 0, result.stderr
    first, again, other = ((tmp_path / f"{name}.onnx").read_bytes() for name in "abc")
    assert first == again
    assert first == other


@pytest.mark.parametrize("name", FILES)
def test_no_trace_of_this_machine_is_left(student: Any, name: str) -> None:
    model = onnx.load(student.onnx.file(name))
    onnx.checker.check_model(model, full_check=True)
    for tensor in model.graph.initializer:  # random weights may spell anything
        tensor.ClearField("raw_data")
    text = model.SerializeToString()
    for trace in (str(ROOT), str(Path.home()), sys.prefix, "site-packages", ".py", "Traceback", "pkg.torch", "File "):
        assert trace.encode() not in text, f"{name} holds {trace!r}"


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_onnx_runtime_reads_the_facts_in_the_file(student: Any, precision: str) -> None:
    session = onnxruntime.InferenceSession(
        str(student.onnx.file(f"{precision}.onnx")), providers=["CPUExecutionProvider"]
    )
    facts = json.loads(session.get_modelmeta().custom_metadata_map["segpress"])
    for key in ("classes", "palette", "ignore_index", "mean", "std", "input_size", "model", "parameters"):
        assert facts[key] == student.parent.meta[key], key
    assert LabelSpec.from_meta(facts) == student.labels
    assert student.labels.original_ids is not None
    assert (facts["precision"], facts["channel_order"]) == (precision, "BGR")
    for side, tensor in (("input", session.get_inputs()[0]), ("output", session.get_outputs()[0])):
        assert facts[side]["name"] == tensor.name
        assert facts[side]["shape"] == tensor.shape
        assert f"tensor({facts[side]['dtype']})" == tensor.type == "tensor(uint8)"


def test_artifact_names_its_parent_and_its_parity(student: Any) -> None:
    meta = student.onnx.meta
    assert sorted(meta["files"]) == sorted(FILES)
    assert meta["parents"] == {"network": student.parent.hash}
    assert meta["parity"] == student.parity
    assert meta["parity"]["core_max_difference"] <= 1e-4  # measured: 5e-6
    assert meta["parity"]["agreement"]["fp32"] >= 0.9999 and 0.99 <= meta["parity"]["agreement"]["fp16"] <= 1


def test_fp16_file_holds_float16_only(student: Any) -> None:
    model = onnx.load(student.onnx.file("fp16.onnx"))
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    kept = {name for node in model.graph.node if node.op_type == "Resize" for name in node.input[1:3]}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) > 40
    assert {types[name] for node in convolutions for name in node.input[1:]} == {TensorProto.FLOAT16}
    assert not [name for name, kind in types.items() if kind == TensorProto.FLOAT and name not in kept]
    values = (*model.graph.input, *model.graph.output)
    assert [value.type.tensor_type.elem_type for value in values] == [TensorProto.UINT8, TensorProto.UINT8]
    size = {name: student.onnx.file(name).stat().st_size for name in FILES}
    assert size["fp16.onnx"] < 0.51 * size["fp32.onnx"]


def altered(student: Any, folder: Path, name: str, change: Any) -> Path:
    """A copy of the ONNX artifact's files, in which one file has other classifier weights."""
    shutil.copytree(student.onnx.path, folder)
    model = onnx.load(folder / name)
    classifier = [node for node in model.graph.node if node.op_type == "Conv"][-1].input[1]
    for tensor in model.graph.initializer:
        if tensor.name == classifier:
            tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), classifier))
    onnx.save(model, folder / name)
    return folder


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("core.onnx", lambda w: w * np.float32(1.01), "core.onnx differs from torch"),
        ("core.onnx", lambda w: w * np.float32(np.nan), "core.onnx differs from torch by nan"),
        ("fp32.onnx", lambda w: w[::-1], r"fp32.onnx agrees with torch on .*%.*needed: 99.9%"),
    ],
    ids=["core", "core-nan", "fp32"],
)
def test_parity_refuses_altered_weights(student: Any, tmp_path: Path, name: str, change: Any, message: str) -> None:
    folder = altered(student, tmp_path / "onnx", name, change)
    with pytest.raises(UserError, match=message):
        parity.check(student.network, folder, student.frames[:2], label_stride=1)


def test_a_float16_file_that_disagrees_is_reported(student: Any, tmp_path: Path) -> None:
    """It is no error, because INT8 for CPUs does not need it."""
    folder = altered(student, tmp_path / "onnx", "fp16.onnx", lambda w: w[::-1])
    record = parity.check(student.network, folder, student.frames[:2], label_stride=1)
    facts = parity.float16_facts(record, {"conv": "'x' reaches 1e+06"})
    assert facts == {"reliable": False, "float32_nodes": {"conv": "'x' reaches 1e+06"}}
    nodes, warning = parity.float16_report({"parity": record, "float16": facts})
    assert nodes == "in float32, because float16 cannot hold the values: conv ('x' reaches 1e+06)"
    assert warning.startswith(f"warning: fp16.onnx agrees on only {record['agreement']['fp16']:.2%} of pixels when")
    assert parity.float16_report(student.onnx.meta) == []


class Loud(SegNetwork):
    """Its activations overflow in float16: they are multiplied by 1e6, and the logits by 1e-6."""

    facts = NetworkFacts(channels=8, stage_channels=(8,), output_stride=4, divisor=4)
    mean, std = (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.classifier = nn.Conv2d(8, 5, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> SegOutput:
        embedding = torch.relu(self.first(x)) * 1e6
        return SegOutput(logits=self.classifier(embedding) * 1e-6, embedding=embedding)


def test_an_export_keeps_nodes_that_overflow_in_float32(student: Any, tmp_path: Path) -> None:
    torch.manual_seed(3)
    meta = {**student.parent.meta, "input_size": [32, 48]}
    parent = artifact.Artifact(path=student.parent.path, meta=meta)
    frames = [frame[:32, :48].copy() for frame in student.frames]
    record = export_network(Loud().eval(), parent, tmp_path / "onnx", frames=frames, label_stride=1, built_with={})
    assert record["agreement"]["fp16"] > 0.97
    facts = artifact.load(tmp_path / "onnx", kind="onnx").meta["float16"]
    assert facts["reliable"] and len(facts["float32_nodes"]) == 3
    model = onnx.load(tmp_path / "onnx" / "fp16.onnx")
    wide = [node.op_type for node in model.graph.node if node.name in facts["float32_nodes"]]
    assert wide == ["Mul", "Conv", "Mul"]


def test_parity_accepts_the_exported_files(student: Any) -> None:
    assert parity.check(student.network, student.onnx.path, student.frames, label_stride=1) == student.parity


def test_label_stride_must_divide(student: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"export.label_stride: got 5, which does not divide input_size \[128, 192\]"):
        export_network(student.network, student.parent, tmp_path / "x", frames=[], label_stride=5, built_with={})
    assert not list(tmp_path.iterdir())


def test_a_failed_check_leaves_nothing(
    tiny: SegNetwork, student: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "LOGITS_TOLERANCE", -1.0)
    parent = artifact.Artifact(path=tmp_path, meta={**student.parent.meta, "input_size": [32, 48]})
    frames = [np.zeros((32, 48, 3), np.uint8)]
    with pytest.raises(UserError, match=r"core.onnx differs"):
        export_network(tiny, parent, tmp_path / "x", frames=frames, label_stride=1, built_with={})
    assert not list(tmp_path.iterdir())
