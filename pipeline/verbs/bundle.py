"""Pack ONNX files, INT8 files and frames into one archive that builds and checks its engines on a device.

segpress bundle kd                                # a student -> kd.tar.gz
segpress bundle own --artifacts artifacts/own     # a network of segpress import
tar xzf kd.tar.gz && sh kd/run.sh                 # on the device
segpress bundle kd --ssh user@host --results kd-device.json -- --runtime tensorrt     # send it and run it there
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

from pipeline import artifact, runtimes
from pipeline.artifact import Artifact
from pipeline.bundle import archive, remote
from pipeline.evaluation import fastest
from pipeline.evaluation.assembly import TORCH, describe_imported, describe_student
from pipeline.prepared import Prepared
from pipeline.progress import Bars
from pipeline.reporting import card
from pipeline.reporting.results import read as read_results
from pipeline.settings import params
from pipeline.verbs import new_parser


def main(arguments: list[str]) -> int:
    parser = new_parser(__name__, __doc__)
    parser.add_argument("name", help="of the student, or of the network of segpress import")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument(
        "--artifacts", type=Path, default=Path("artifacts"), help="folder of onnx/NAME, int8/NAME ...; artifacts"
    )
    parser.add_argument("--dataset", type=Path, help="prepared data set; default: dataset in the folder of --artifacts")
    parser.add_argument("--images", type=int, default=100, help="frames to check on, evenly spaced; 100")
    parser.add_argument("--out", type=Path, help="the archive; NAME.tar.gz")
    parser.add_argument(
        "--ssh",
        metavar="USER@HOST",
        help="run the bundle on this device (with your ssh key), fetch its results; arguments after -- are for run.sh",
    )
    parser.add_argument(
        "--ssh-option",
        action="append",
        default=[],
        metavar="ARGUMENT",
        help="for ssh, repeatable: --ssh-option=-p2222",
    )
    parser.add_argument("--python", default="python3", help="Python of the device, with --ssh; python3")
    parser.add_argument("--results", type=Path, help="file for the results, required with --ssh")
    end = arguments.index("--") if "--" in arguments else len(arguments)
    args, remote_arguments = parser.parse_args(arguments[:end]), arguments[end + 1 :]
    if bool(args.ssh) != bool(args.results):
        parser.error("--ssh and --results go together")
    if remote_arguments and not args.ssh:
        parser.error("arguments after -- are for run.sh on the device; name it: --ssh USER@HOST")

    settings = params.load(args.params, kinds=("runtimes",))
    out = args.out or Path(f"{args.name}.tar.gz")
    onnx = artifact.load(args.artifacts / "onnx" / args.name, kind="onnx")
    int8 = artifact.load(args.artifacts / "int8" / args.name, kind="int8")
    check = settings.check.model_dump()
    split = check.pop("split")
    prepared = Prepared(args.dataset or args.artifacts / "dataset")
    facts = {
        "student": _about(onnx, args.artifacts / "students" / args.name, split=split, prepared=prepared),
        "runtime": settings.convert.runtime,
        "runtime_options": settings.runtime_options,
        "check": check,
        "budgets": settings.budgets.model_dump(),
        **_measured_here(args.artifacts / "engines" / args.name, sources=(onnx, int8)),
    }
    archive.write(
        out,
        onnx=onnx,
        int8=int8,
        prepared=prepared,
        split=split,
        images=args.images,
        facts=facts,
        card=_card(
            args.name, args.artifacts, onnx=onnx, int8=int8, prepared=prepared, about=facts["student"], split=split
        ),
    )
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")
    if not args.ssh:
        print(f"on the device: tar xzf {out.name} && sh {out.name.removesuffix('.tar.gz')}/run.sh")
        return 0
    with Bars() as bars:
        results, status = remote.check(
            remote.Host(args.ssh, args.ssh_option),
            out,
            arguments=remote_arguments,
            python=args.python,
            say=lambda line: print(f"{args.ssh}: {line}", flush=True),
            progress=partial(bars.reach, "sending"),
        )
    artifact.write_text(args.results, artifact.dump_json(results))
    print(f"{args.results}: INT8 mIoU {results['variants']['int8']['miou']:.2f} on {results['device']['name']}")
    return status


def _about(onnx: Artifact, student: Path, *, split: str, prepared: Prepared) -> dict[str, Any]:
    """Facts about the network for the results: a student that was trained here, or an imported network."""
    if "file" in onnx.meta["parents"]:
        return describe_imported(onnx, name=student.name, prepared=prepared)
    network, exported = artifact.load(student, kind="network"), onnx.meta.get("weights", "best")
    return describe_student(network, name=student.name, exported=exported, split=split)


def _measured_here(engines: Path, *, sources: Collection[Artifact]) -> dict[str, Any]:
    """``fastest`` as this machine has measured it with engines of these files; empty if it has not."""
    record, _ = fastest.read(engines)
    parents = [{source.kind: source.hash} for source in sources]
    places = [engines / name for name in fastest.identities(engines)]
    current = all(artifact.load(place, kind="engine", verify=False).meta["parents"] in parents for place in places)
    return {"fastest": record} if record and places and current else {}


def _card(
    name: str, artifacts: Path, *, onnx: Artifact, int8: Artifact, prepared: Prepared, about: dict[str, Any], split: str
) -> str:
    """The model card: with the results of `check`, if they are about engines of these files, else with the float facts.

    Results are ``results/NAME.json`` in the folder of the artifacts (segpress import) or beside it (the graph).
    """
    network = onnx if "file" in onnx.meta["parents"] else artifact.load(artifacts / "students" / name, kind="network")
    details = card.Details.of(network, prepared)
    for folder in (artifacts, artifacts.parent):
        if (file := folder / "results" / f"{name}.json").is_file():
            result = read_results(file)
            engines = _current(artifacts / "engines" / name, sources=(onnx, int8))
            measured = {key: variant.sha256 for key, variant in result.variants.items() if key != TORCH}
            if measured and measured == engines and result.dataset_sha256 == prepared.artifact.hash:
                return card.render(result, details, in_bundle=True)
    aware = onnx.meta.get("quantization_aware", {})
    return card.render(card.unmeasured(about, network, prepared, split=split, aware=aware), details, in_bundle=True)


def _current(engines: Path, *, sources: Collection[Artifact]) -> dict[str, str]:
    """sha256 of the engine file of each variant that was built from these files."""
    parents = [{source.kind: source.hash} for source in sources]
    loaded = {name: artifact.load(engines / name, kind="engine", verify=False) for name in fastest.identities(engines)}
    built = {name: engine for name, engine in loaded.items() if engine.meta["parents"] in parents}
    return {name: artifact.sha256(runtimes.file_of(engine)) for name, engine in built.items()}
