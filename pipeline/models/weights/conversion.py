"""Keys of the weights in checkpoints, and the command that converts a file that needs unpickling to safetensors."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

FOLDER_FILES = ("model.safetensors", "pytorch_model.bin")
#: Keys of a state dict in files of training code; the first one in a file is used.
CONTAINERS = ("state_dict", "model_state_dict", "model_state", "model", "network", "net", "module", "weights")
#: Keys of averaged weights; used if there are no others, or if ``weights_key`` names one.
AVERAGES = ("model_ema", "state_dict_ema", "ema_state_dict", "ema_model", "module_ema", "ema")
#: Converts a torch file to safetensors; opens containers and modules as `read` does, and arrays of NumPy too.
CONVERT = (
    "import sys, torch; from safetensors.torch import save_file; keys = '{keys}'.split(); "
    "find = lambda c: c.state_dict() if hasattr(c, 'state_dict') else next((find(c[k]) for k in keys if k in c "
    "and (hasattr(c[k], 'items') or hasattr(c[k], 'state_dict'))), c); "
    "found = find(torch.load(sys.argv[1], map_location='cpu', weights_only=False){inner}); "
    "save_file({{str(k): torch.as_tensor(v).detach().clone().contiguous() for k, v in found.items() "
    "if isinstance(v, torch.Tensor) or getattr(v, 'ndim', 0)}}, sys.argv[2])"
)


def conversion(path: Path, key: str | None = None) -> str:
    """The shell command for a file that needs unpickling. It runs code in the file, so users must trust the file."""
    parts = (part for part in (key or "").split(".") if re.fullmatch(r"[\w-]+", part))  # safe in a shell
    inner = "".join(f"['{part}']" for part in parts)
    program = CONVERT.format(keys=" ".join((*CONTAINERS, *AVERAGES)), inner=inner)
    name = FOLDER_FILES[0] if path.name == FOLDER_FILES[1] else f"{path.stem}.safetensors"
    target = path.with_name(name if name != path.name else f"{path.stem}.converted.safetensors")
    files = shlex.join([str(path), str(target)])
    return f'if you trust the file, convert it: python -c "{program}" {files}'
