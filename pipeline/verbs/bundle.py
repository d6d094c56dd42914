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

from pipeline import artifact
from pipeline.artifact import Artifact
from pipeline.bundle import archive, remote
from pipeline.evaluation import fastest
from pipeline.evaluation.assembly import describe_imported, describe_student
from pipeline.prepared import Prepared
from pipeline.progress import Bars
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
    archive.write(
        out,
        onnx=onnx,
        int8=int8,
        prepared=Prepared(args.dataset or args.artifacts / "dataset"),
        split=split,
        images=args.images,
        facts={
            "student": _about(onnx, args.artifacts / "students" / args.name, split=split),
            "runtime": settings.convert.runtime,
            "runtime_options": settings.runtime_options,
            "check": check,
            "budgets": settings.budgets.model_dump(),
            **_measured_here(args.artifacts / "engines" / args.name, sources=(onnx, int8)),
        },
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


def _about(onnx: Artifact, student: Path, *, split: str) -> dict[str, Any]:
    """Facts about the network for the results: a student that was trained here, or an imported network."""
    if "file" in onnx.meta["parents"]:
        return describe_imported(onnx, name=student.name)
    network, exported = artifact.load(student, kind="network"), onnx.meta.get("weights", "best")
    return describe_student(network, name=student.name, exported=exported, split=split)


def _measured_here(engines: Path, *, sources: Collection[Artifact]) -> dict[str, Any]:
    """``fastest`` as this machine has measured it with engines of these files; empty if it has not."""
    record, _ = fastest.read(engines)
    parents = [{source.kind: source.hash} for source in sources]
    places = [engines / name for name in fastest.identities(engines)]
    current = all(artifact.load(place, kind="engine", verify=False).meta["parents"] in parents for place in places)
    return {"fastest": record} if record and places and current else {}
