"""Where checkpoints keep their weights, and the line that turns one that needs unpickling into safetensors."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

FOLDER_FILES = ("model.safetensors", "pytorch_model.bin")
#: Keys under which training code keeps a state dict, the first that is there is taken.
CONTAINERS = ("state_dict", "model_state_dict", "model_state", "model", "network", "net", "module", "weights")
#: Keys of averaged weights; they are taken where there are no others, or when ``weights_key`` names one.
AVERAGES = ("model_ema", "state_dict_ema", "ema_state_dict", "ema_model", "module_ema", "ema")
#: Turns a torch file into safetensors; it opens containers and modules as `read` does, and arrays of NumPy too.
CONVERT = (
    "import sys, torch; from safetensors.torch import save_file; keys = '{keys}'.split(); "
    "find = lambda c: c.state_dict() if hasattr(c, 'state_dict') else next((find(c[k]) for k in keys if k in c "
    "and (hasattr(c[k], 'items') or hasattr(c[k], 'state_dict'))), c); "
    "found = find(torch.load(sys.argv[1], map_location='cpu', weights_only=False){inner}); "
    "save_file({{str(k): torch.as_tensor(v).detach().clone().contiguous() for k, v in found.items() "
    "if isinstance(v, torch.Tensor) or getattr(v, 'ndim', 0)}}, sys.argv[2])"
)


def conversion(path: Path, key: str | None = None) -> str:
    """What to run where unpickling is needed: a line for the shell, which its user must trust the file for."""
    parts = (part for part in (key or "").split(".") if re.fullmatch(r"[\w-]+", part))  # nothing that a shell reads
    inner = "".join(f"['{part}']" for part in parts)
    program = CONVERT.format(keys=" ".join((*CONTAINERS, *AVERAGES)), inner=inner)
    named = FOLDER_FILES[0] if path.name == FOLDER_FILES[1] else f"{path.stem}.safetensors"
    target = path.with_name(named if named != path.name else f"{path.stem}.converted.safetensors")
    files = shlex.join([str(path), str(target)])
    return f'convert it where you trust it: python -c "{program}" {files}'
