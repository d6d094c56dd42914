"""Print the runtimes, GPUs and libraries of this machine, those missing, and which runtime to choose."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.artifact import dump_json
from pipeline.evaluation import machine
from pipeline.verbs import new_parser

WIDTH = 18  # of the first column, in characters


def main(arguments: list[str]) -> None:
    parser = new_parser(__name__, __doc__)
    parser.add_argument("--json", action="store_true", help="print all facts as JSON")
    args = parser.parse_args(arguments)
    facts = machine.read()
    print(dump_json(facts) if args.json else "\n".join(lines(facts)), end="" if args.json else "\n")


def lines(facts: dict[str, Any]) -> Iterator[str]:
    """The printed text, from the result of :func:`pipeline.evaluation.machine.read`."""
    version = facts["segpress"] or "not installed, run from a folder"
    yield _line("segpress", f"{version}; Python {facts['python']}; {facts['system']}")
    cpu = facts["cpu"]
    yield _line("CPU", f"{cpu['name']}, {cpu['cores']} cores, INT8 kernels: {cpu['int8_kernels']}")
    for gpu in facts["gpus"] or [None]:
        yield _line("GPU", _gpu(gpu) if gpu else "no NVIDIA GPU with a driver")
    if board := facts["jetson"]:
        yield _line("Jetson", f"{board['model']}, Jetson Linux {board['l4t']}")
    for name, version in facts["packages"].items():
        extra = machine.PACKAGES[name]
        install = f"pip install '.[{extra}]'" if extra else "pip install ."
        yield _line(name, version or f"missing; {install}")
    for name, state in facts["runtimes"].items():
        yield _line(name, state["version"] if state["works"] else f"does not work: {state['why']}")
    for name, state in facts["providers"].items():
        yield _line(f"provider {name}", "works" if state["works"] else f"does not work: {state['why']}")
    for name, place in facts["libraries"].items():
        yield _line(name, place or "missing")
    advice = facts["advice"]
    provider = f", convert.onnxruntime.provider: {advice['provider']}" if "provider" in advice else ""
    yield _line("choose", f"convert.runtime: {advice['runtime']}{provider}; {advice['why']}")
    for key in ("install", "int8"):
        if key in advice:
            yield _line(key, advice[key])


def _gpu(gpu: dict[str, str]) -> str:
    driver = f", driver {gpu['driver']}" if "driver" in gpu else ""
    return f"{gpu['name']}, compute capability {gpu['compute_capability']}{driver}"


def _line(name: str, text: str) -> str:
    return f"{name:{WIDTH}} {text}"
