"""Which providers of ONNX Runtime work on this machine; ONNX Runtime also lists providers whose libraries are missing.

Each provider runs a tiny network in its own process, because a wrong library can crash the process.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.runtimes.onnxruntime import PROVIDERS, load_libraries

#: An ONNX file (IR 8, opset 13): y = Relu(x), both float32 (1,).
MODEL = bytes.fromhex(
    "08083a330a0c0a0178120179220452656c751201675a0f0a0178120a0a08080112040a020801620f0a0179120a0a08080112040a0208014202100d"
)
#: Seconds that a provider may take to load and run; CUDA takes several at its first start.
PATIENCE_S = 120.0


def failure(name: str) -> str | None:
    """Why a provider does not work on this machine; None: it works.

    Args:
        name: key of :data:`PROVIDERS`.
    """
    search = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]))
    try:
        done = subprocess.run(  # noqa: S603 - a list of arguments
            [sys.executable, "-m", __name__, name],
            env={**os.environ, "PYTHONPATH": search},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it did not answer within {PATIENCE_S:.0f} s"
    return None if done.returncode == 0 else reason(done.stderr.decode(errors="replace"), status=done.returncode)


def reason(log: str, *, status: int) -> str:
    """The cause in the log of a process that failed: the missing library, else the last line.

    Example:
        >>> reason("[E:onnxruntime] Failed: libcublasLt.so.12: cannot open shared object file: No such", status=1)
        'the library libcublasLt.so.12 is missing'
    """
    if missing := re.search(r"([\w.+-]+\.so[\w.]*): cannot open shared object file", log):
        return f"the library {missing[1]} is missing"
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"its process ended with status {status}"


def run(name: str) -> str | None:
    """Run the tiny network in this process; returns why it failed, or None."""
    import onnxruntime  # noqa: PLC0415 - not on every device

    providers: list[Any] = list(PROVIDERS[name])
    if providers[0] not in onnxruntime.get_available_providers():
        return f"ONNX Runtime {onnxruntime.__version__} as installed here does not contain it"
    if name != "cpu":
        load_libraries(onnxruntime)
    session = onnxruntime.InferenceSession(MODEL, providers=providers, enable_fallback=0)
    if session.get_providers()[0] != providers[0]:
        return f"ONNX Runtime offers {', '.join(session.get_providers())} instead"
    (result,) = session.run(None, {"x": np.full(1, 3, np.float32)})
    return None if result.tolist() == [3.0] else f"it computed {result.tolist()} instead of [3.0]"


if __name__ == "__main__":
    sys.exit(run(sys.argv[1]))
