"""A student, its ONNX and INT8 files and frames -> one tar.gz that builds, checks and answers on a device.

    segpress bundle --student artifacts/students/kd --onnx artifacts/onnx/kd --int8 artifacts/int8/kd \\
        --dataset artifacts/dataset --out kd.tar.gz
    # on the device: tar xzf kd.tar.gz && sh kd/run.sh
    # or from here: segpress bundle ... --ssh user@host --results kd-device.json -- --runtime tensorrt
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pipeline import artifact, bundle, params, remote
from pipeline.evaluation.assembly import describe_imported
from pipeline.prepared import Prepared
from pipeline.progress import Bars
from pipeline.verbs import new_parser


def main(arguments: list[str]) -> int:
    parser = new_parser(__name__, __doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument(
        "--student", type=Path, help="network that was trained here; leave it out for one of segpress import"
    )
    parser.add_argument("--onnx", type=Path, required=True)
    parser.add_argument("--int8", type=Path, required=True)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--images", type=int, default=100, help="frames to check on, evenly spaced; 100")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--ssh", metavar="USER@HOST", help="run it there and fetch its results; needs a key, no password"
    )
    parser.add_argument(
        "--ssh-option", action="append", default=[], metavar="ARGUMENT", help="of ssh, repeatable: --ssh-option=-p2222"
    )
    parser.add_argument("--python", default="python3", help="interpreter there, with --ssh; python3")
    parser.add_argument("--results", type=Path, help="where its results go, with --ssh")
    parser.add_argument("arguments", nargs="*", help="of run.sh there, after --")
    args = parser.parse_args(arguments)
    if bool(args.ssh) != bool(args.results):
        parser.error("--ssh and --results go together")

    settings = params.load(args.params, kinds=("runtimes",))
    onnx = artifact.load(args.onnx, kind="onnx")
    about = describe_imported(onnx, name=args.onnx.name)
    if args.student:
        student = artifact.load(args.student, kind="network")
        about = {
            "student": args.student.name,
            "loss": student.meta["loss"]["name"],
            "parameters": student.meta["parameters"],
            "model": student.meta["model"]["name"],
        }
    check = settings.check.model_dump()
    split = check.pop("split")
    bundle.write(
        args.out,
        onnx=onnx,
        int8=artifact.load(args.int8, kind="int8"),
        prepared=Prepared(args.dataset),
        split=split,
        images=args.images,
        facts={
            "student": about,
            "runtime": settings.convert.runtime,
            "runtime_options": settings.runtime_options,
            "check": check,
            "budgets": settings.budgets.model_dump(),
        },
    )
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB")
    if not args.ssh:
        print(f"on the device: tar xzf {args.out.name} && sh {args.out.name.removesuffix('.tar.gz')}/run.sh")
        return 0
    with Bars() as bars:
        results, status = remote.check(
            remote.Host(args.ssh, args.ssh_option),
            args.out,
            arguments=args.arguments,
            python=args.python,
            say=lambda line: print(f"{args.ssh}: {line}", flush=True),
            progress=partial(bars.reach, "sending"),
        )
    artifact.write_text(args.results, artifact.dump_json(results))
    print(f"{args.results}: INT8 mIoU {results['variants']['int8']['miou']:.2f} on {results['device']['name']}")
    return status
