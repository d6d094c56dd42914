"""The params files of ``gpu_all.sh``: training.yaml, and runtimes.yaml for a student that all runtimes compile.

    python benchmarks/gpu_params.py FOLDER [--weights FOLDER] [--device cpu] [--tiny]

training.yaml trains EfficientNet-Lite2 as teacher and -Lite0 as students on CamVid at 368x480, if it is in
``FOLDER/camvid`` (images/, masks/, train.txt, val.txt), else on rendered frames. runtimes.yaml trains the same networks
for two steps on rendered frames of 512x1024: the latency of a network does not depend on its weights.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.datasets.camvid import LABELS, VOID
from pipeline.errors import UserError, command
from pipeline.runtimes import _cuda
from pipeline.settings import params

LOSSES = {"none": "none", "kd": "kd", "cirkd": ["kd", "cirkd"]}


def network(folder: Path, number: int, options: dict[str, Any]) -> dict[str, Any]:
    weights = folder / f"weights/tf_efficientnet_lite{number}.safetensors"
    return {
        "name": "smp",
        "architecture": "deeplabv3plus",
        "encoder": f"tu-tf_efficientnet_lite{number}",
        "encoder_weights": str(weights) if weights.is_file() else None,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "options": options,
    }


def precision(device: str) -> str:
    """bf16 from compute capability 8.0 on, fp16 on older GPUs.

    Raises:
        UserError: no GPU.
    """
    if device == "cpu":
        return "fp32"
    gpu = _cuda.device()
    if gpu is None:
        raise UserError("--device: got cuda, but this machine has no NVIDIA GPU with a driver; use --device cpu")
    return "bf16" if float(gpu["compute_capability"]) >= 8 else "fp16"


def frames(values: dict[str, Any], *, train: int, val: int, size: list[int]) -> None:
    """Use rendered frames."""
    values["dataset"] = "streets"
    values["datasets"]["streets"].update(train=train, val=val, sequence=0, size=size)


def camvid(values: dict[str, Any], root: Path) -> None:
    values["dataset"] = "folder"
    values["datasets"]["folder"].update(
        root=str(root), images="images/**/*.jpg", masks="masks/**/*.png",
        lists={"train": "train.txt", "val": "val.txt"}, ignore=[VOID],
        classes=list(LABELS.names), palette=[list(colour) for colour in LABELS.palette],
    )  # fmt: skip


def as_float32(source: Path, target: Path) -> None:
    """Write the encoders of a folder, which may be stored in half precision, in float32."""
    from safetensors.torch import load_file, save_file  # noqa: PLC0415 - torch takes seconds to import

    for file in sorted(source.glob("*.safetensors")):
        target.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.float() for name, tensor in load_file(file).items()}
        save_file(tensors, target / file.name)


def training(values: dict[str, Any], folder: Path, *, device: str, tiny: bool) -> str:
    """Set the training; returns its description."""
    size, batch = ([64, 96], 2) if tiny else ([368, 480], 16)
    steps = 4 if tiny else 300
    real = (folder / "camvid").is_dir() and not tiny
    values["input_size"] = size
    if real:
        camvid(values, folder / "camvid")
    else:
        frames(values, train=6 * batch, val=4 if tiny else 24, size=size)
    recipe = {
        "steps": steps, "epochs": None, "batch_size": batch, "lr": 0.001, "warmup": steps // 10,
        "validate_every": steps // 2, "precision": precision(device), "channels_last": device == "cuda",
        "workers": 0 if tiny else min(6, os.cpu_count() or 1), "store": "decoded", "scale": [0.5, 2.0],
        "class_balance": 0.3,
    }  # fmt: skip
    values["teacher"]["model"] = network(folder, 2, {"decoder_channels": 256})
    values["teacher"]["train"].update(recipe)
    values["distill"].update(copy.deepcopy(recipe))
    values["students"] = {
        name: {"model": network(folder, 0, {"decoder_channels": 128}), "loss": loss, "qat": False}
        for name, loss in LOSSES.items()
    }
    values["compare"]["student"] = "kd"
    data = "CamVid" if real else "rendered frames"
    weights = "pretrained" if values["teacher"]["model"]["encoder_weights"] else "random"
    return f"{data} at {size[0]}x{size[1]}, batch {batch}, {recipe['precision']}, {weights} encoders"


def runtimes(values: dict[str, Any], *, tiny: bool) -> None:
    """Change the training to that of the student for the runtimes."""
    size = [64, 96] if tiny else [512, 1024]
    values["input_size"] = size
    frames(values, train=8, val=4, size=size)
    for recipe in (values["teacher"]["train"], values["distill"]):
        recipe.update(steps=2, batch_size=2, warmup=0, validate_every=2, workers=0)
    values["calibrate"].update(images=8, allow_missing_classes=True)
    values["quantize"].update(trial_images=0)


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="all other values")
    parser.add_argument("--weights", type=Path, help="folder of tf_efficientnet_lite<n>.safetensors; default: random")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="4 steps of two small frames")
    args = parser.parse_args()

    if args.weights is not None:
        as_float32(args.weights, args.folder / "weights")
    yaml = YAML()
    values = yaml.load(args.params.read_text(encoding="utf-8"))
    description = training(values, args.folder, device=args.device, tiny=args.tiny)
    for name in ("training", "runtimes"):
        if name == "runtimes":
            runtimes(values, tiny=args.tiny)
        file = args.folder / f"{name}.yaml"
        with file.open("w", encoding="utf-8") as stream:
            yaml.dump(values, stream)
        params.load(file, kinds=("datasets", "models", "losses"))
    print(f"training: {description}")


if __name__ == "__main__":
    sys.exit(main())
