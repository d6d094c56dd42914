"""`segpress completion`: real shells offer verbs, the options of a verb, and files otherwise."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import verbs
from pipeline.verbs.completion import SCRIPTS, options

ROOT = Path(__file__).parents[2]
#: The words typed, the last one unfinished; what the shell offers.
TYPED = [
    (["ch"], ["check-bundle"]),
    (["comp"], ["compare", "completion"]),
    (["bundle", "--ss"], ["--ssh", "--ssh-option"]),
    (["import", "own.yaml", "--dat"], ["--dataset"]),
    (["infer", "engine", "clip.mp4", "--side"], ["--side-by-side"]),
    (["import", "ow"], ["own.yaml"]),
    (["inspect", "--params", "ow"], ["own.yaml"]),
    (["unknown", "--"], []),
]
#: Reads the script, then prints what the shell offers for the words in "$@", one per line.
ASK = {
    # compgen does what readline does with the registered function and `-o default`; COMPREPLY empty: files
    "bash": """eval "$SCRIPT"; complete -p segpress | grep -q -- '-o default -F _segpress' || exit 9
        COMP_WORDS=(segpress "$@"); COMP_CWORD=$#; _segpress
        [[ ${#COMPREPLY[@]} -gt 0 ]] || COMPREPLY=($(compgen -f -- "${!#}")); printf '%s\\n' "${COMPREPLY[@]}" """,
    "zsh": """compdef() { [[ "$*" == "_segpress segpress" ]] || exit 9 }; word=${@[-1]}
        compadd() { shift; for item in $@; do [[ $item == $word* ]] && print -r -- $item; done }
        _files() { print -l -- $word*(N) }
        eval "$SCRIPT"; words=(segpress "$@"); CURRENT=$#words; _segpress || true""",
    "fish": """printenv SCRIPT | source; complete -C "segpress $argv" """,
}


def test_every_shell_is_tested() -> None:
    assert set(ASK) == set(SCRIPTS)


@pytest.mark.parametrize("shell", ASK)
def test_a_shell_completes(shell: str, tmp_path: Path) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "own.yaml").touch()
    script = subprocess.run(
        [sys.executable, "-m", "pipeline.verbs", "completion", shell],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for typed, offered in TYPED:
        command = [program, "-c", ASK[shell], *([shell] if shell != "fish" else []), *typed]
        environment = {**os.environ, "SCRIPT": script, "HOME": str(tmp_path)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert (sorted(done.stdout.split()), done.stderr) == (offered, ""), (shell, typed)


@pytest.mark.parametrize("name", verbs.available())
def test_the_options_are_those_of_the_parser(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        verbs.run(name, ["--help"])
    listed = re.findall(r"^  (?:-\w, )?(--[\w-]+)", capsys.readouterr().out, flags=re.MULTILINE)
    assert options(verbs.file_of(name)) == sorted(listed)
