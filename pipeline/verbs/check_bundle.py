"""Build and check the engines of an unpacked bundle on this device, and write one results file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline import artifact, runtimes
from pipeline.bundle import on_device
from pipeline.errors import UserError
from pipeline.evaluation import fastest
from pipeline.evaluation.budgets import conclusion
from pipeline.verbs import new_parser


def main(arguments: list[str]) -> int:
    parser = new_parser(__name__, __doc__)
    parser.add_argument("--bundle", type=Path, default=Path(), help="the unpacked bundle; default: this folder")
    parser.add_argument("--runtime", help=f"{', '.join(runtimes.available())}; default: the runtime of the bundle")
    parser.add_argument("--options", default="{}", help="options of the runtime, as JSON: '{\"threads\": 4}'")
    parser.add_argument("--out", type=Path, help="results file; default: results.json in the bundle")
    args = parser.parse_args(arguments)

    facts = artifact.read_json(
        args.bundle / on_device.FACTS, advice="run this in an unpacked bundle, or name one: --bundle"
    )
    runtime = args.runtime or facts["runtime"]
    try:
        options: Any = json.loads(args.options)
    except ValueError as error:
        raise UserError(f'--options: not JSON ({error}); for example {{"threads": 4}}') from error
    if not isinstance(options, dict):
        raise UserError(f'--options: got {args.options}; a JSON object is needed, for example {{"threads": 4}}')
    options = {**(facts["runtime_options"] if runtime == facts["runtime"] else {}), **options}
    results = on_device.check_bundle(
        args.bundle, runtime=runtime, options=options, say=lambda text: print(text, flush=True)
    )
    out = args.out or args.bundle / "results.json"
    artifact.write_text(out, artifact.dump_json(results))
    for line in fastest.lines(results["fastest"]):
        print(line)
    if "fastest" in facts:
        print(f"on {facts['fastest']['device']}, the machine that wrote this bundle: {facts['fastest']['what']}")
    for violation in results["violations"]:
        print(f"budget broken: {violation['what']}")
    print(f"{out}: {conclusion(results)}")
    return 0 if results["passed"] else 1
