"""Turn your own ONNX network into INT8 files, engines and results, and keep each step's artifact.

    segpress import own.yaml --dataset artifacts/dataset --out artifacts/own

own.yaml describes facts that the ONNX file lacks (docs/own-network.md). The steps use the scripts of the pipeline's
stages and, in params.yaml, calibrate, quantize, convert, check and budgets. Run the command again after an interruption
or a change: steps whose inputs are unchanged are skipped.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipeline import artifact
from pipeline.evaluation import fastest
from pipeline.export.parity import float16_report
from pipeline.frames import Array, resize_frame
from pipeline.imported import description, network, reading
from pipeline.imported.description import Description
from pipeline.imported.merging import merge
from pipeline.imported.onnx_artifact import import_network
from pipeline.prepared import Prepared
from pipeline.progress import Bars
from pipeline.provenance import closure
from pipeline.settings import params, yaml_file
from pipeline.verbs import new_parser
from pipeline.verbs._repository import ROOT, folder_of
from pipeline.verbs._steps import Step, perform, run_stage, section

#: Step, named after its output -> stage of the pipeline that produces it.
STAGES = {
    "calibration": "calibrate",
    "int8": "quantize",
    "device": "device",
    "engines": "convert",
    "results": "check",
    "report": "report",
}
STEPS = ("dataset", "onnx", *STAGES)
PARITY_FRAMES = 8
#: A class with a larger share of all pixels than this suggests an error in the description.
NEARLY_ALL = 0.99
CAUSES = (
    "if the frames contain more classes, check mean and std (values in 0..255 are divided by 255), channel_order, "
    "threshold and the order of the classes"
)


def main(arguments: list[str]) -> int:
    parser = new_parser(__name__, __doc__)
    parser.add_argument("description", type=Path, help="YAML file; its `model` names the ONNX file")
    parser.add_argument("--dataset", type=Path, required=True, help="prepared data set: train frames set the ranges")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the artifacts; a new one, or one of this network"
    )
    parser.add_argument("--until", choices=STEPS, default=STEPS[-1], help=f"the last step; {STEPS[-1]}")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args(arguments)

    folder_of("stages")
    settings = params.load(args.params, kinds=("runtimes",))
    own = description.load(args.description)
    network.load(own)  # refuses a file that cannot be used before the first step
    name = args.description.stem
    steps = plan(own, name, dataset=args.dataset, out=args.out, file=args.params, runtime=settings.convert.runtime)
    chosen = [step for step in steps if step.name in STEPS[: STEPS.index(args.until) + 1]]
    status = perform(chosen, args.out, of=name, say=partial(print, flush=True))
    if status:
        print(
            f"stopped; finished steps are kept in {args.out}: correct the error above and run the same command again",
            file=sys.stderr,
        )
    return status


def plan(own: Description, name: str, *, dataset: Path, out: Path, file: Path, runtime: str) -> list[Step]:
    """All steps for a network, in order.

    Args:
        name: of the network, its folders and its results.
        dataset: the prepared data set; it is merged unless it has the network's classes.
        out: folder of the artifacts.
        file: params.yaml.
        runtime: key of the runtime plugin.
    """
    prepared = Prepared(dataset)
    same = own.merge is None and prepared.labels.names == own.labels.names
    data = dataset if same else out / "dataset"
    onnx, calibration, int8, engines, predictions = (
        out / kind / name for kind in ("onnx", "calibration", "int8", "engines", "predictions")
    )
    device, results = out / "device.json", out / "results" / f"{name}.json"
    built = {"device": device, "onnx": onnx, "int8": int8}
    judging = [predictions, results, fastest.record_of(engines)]
    judged = {"device": device, "dataset": data, "engines": engines, "int8": int8}
    values = yaml_file.read(file, sections=params.Params.model_fields)
    described = {"description": own.file, "model": reading.hashes(own.model)}

    def stage(kind: str, outputs: Sequence[Path], inputs: Mapping[str, Path], *more: str | Path) -> Step:
        stage_name = STAGES[kind]
        given = [text for key, path in inputs.items() for text in (f"--{key}", path)]
        depends = {
            **inputs,
            "code": closure.of_stage(stage_name, {"runtimes": [runtime]}),
            "params": _params(values, stage_name),
        }
        return Step(kind, outputs, depends, partial(run_stage, stage_name, "--params", file, *given, *more))

    steps = [
        Step(
            "onnx",
            [onnx],
            {**described, "dataset": data, "code": closure.code(["pipeline/imported/onnx_artifact.py"])},
            partial(_import, own, data, onnx),
        ),
        stage(
            "calibration",
            [calibration],
            {"onnx": onnx, "dataset": data},
            *("--checkpoint", out / ".checkpoints" / f"{name}.safetensors", "--out", calibration),
        ),
        stage("int8", [int8], {"onnx": onnx, "calibration": calibration, "dataset": data}, "--out", int8),
        Step("device", [device], {}, partial(run_stage, "device", "--params", file, "--out", device), always=True),
        stage("engines", [engines], built, "--out", engines),
        stage("results", judging, judged, "--predictions", predictions, "--out", results),
        stage(
            "report",
            [out / "report"],
            {"results": results.parent, "dataset": data, "predictions": predictions.parent},
            *("--students", name, "--out", out / "report"),
        ),
    ]
    if same:
        return steps
    merging = {"description": own.file, "dataset": dataset, "code": closure.code(["pipeline/imported/merging.py"])}
    return [Step("dataset", [data], merging, partial(_merge, own, prepared, data)), *steps]


def _params(values: Mapping[Any, Any], stage: str) -> dict[str, Any]:
    """The values of params.yaml that a stage depends on, as dvc.yaml lists them."""
    graph = yaml_file.read(ROOT / "dvc.yaml", sections=["stages"])["stages"][stage]
    return section(values, graph.get("do", graph)["params"])


def _merge(own: Description, prepared: Prepared, out: Path) -> int:
    with Bars() as bars:
        facts = merge(prepared, own, out, progress=bars.step)
    for split, shares in facts["class_share"].items():
        text = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
        print(f"{out}: {split}, {len(facts['splits'][split])} frames: {text}")
    return 0


def _import(own: Description, dataset: Path, out: Path) -> int:
    """Write the deploy graphs and print their agreement with the file and the share of each class."""
    split = Prepared(dataset).split("train")
    step = max(1, len(split) // PARITY_FRAMES)

    def frames(size: tuple[int, int]) -> list[Array]:
        return [resize_frame(split.frame(index), size) for index in range(0, len(split), step)[:PARITY_FRAMES]]

    parity = import_network(own, out, frames=frames)
    agreement = ", ".join(f"{name} {share:.2%}" for name, share in parity["agreement"].items())
    shares = ", ".join(f"{name} {share:.1%}" for name, share in parity["class_share"].items())
    print(f"{out}: label maps agree with {own.model.name}: {agreement}")
    print(
        f"share of each class on {parity['frames']} train frames: {shares}; if this cannot be right, correct the "
        "description"
    )
    for line in float16_report(artifact.load(out, kind="onnx").meta):
        print(f"{out / 'fp16.onnx'}: {line}")
    if "threshold" in parity:
        print(f"{own.labels.names[1]} is where its one channel is above {parity['threshold']:g}")
    for name, share in parity["class_share"].items():
        if share >= NEARLY_ALL:
            print(f"warning: nearly everything is {name}; {CAUSES}", file=sys.stderr)
    return 0
