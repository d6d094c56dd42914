"""Print a script that completes verbs, options and file names in your shell.

    eval "$(segpress completion bash)"            # in ~/.bashrc
    eval "$(segpress completion zsh)"             # in ~/.zshrc, after compinit
    segpress completion fish | source             # in ~/.config/fish/config.fish

The script holds the verbs and their options, so that the shell starts no Python. Print it again after an update.
"""

from __future__ import annotations

import ast
from pathlib import Path

from pipeline import verbs
from pipeline.verbs import new_parser

PACKAGE = Path(verbs.__file__).parents[1]
#: Functions that add an option: argparse's, and the name that pipeline/video/arguments.py gives it.
CALLS = ("add_argument", "add")
BASH = """_segpress() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} choices=""
    if [[ $COMP_CWORD -eq 1 ]]; then
        choices="{verbs}"
    elif [[ $word == -* ]]; then
        case ${{COMP_WORDS[1]}} in
{cases}
        esac
    fi
    COMPREPLY=($(compgen -W "$choices" -- "$word"))
}}
complete -o default -F _segpress segpress"""
ZSH = """_segpress() {{
    if (( CURRENT == 2 )); then
        compadd -- {verbs}
    elif [[ $words[CURRENT] == -* ]]; then
        case $words[2] in
{cases}
        esac
    else
        _files
    fi
}}
compdef _segpress segpress"""
FISH = """complete -c segpress -n __fish_use_subcommand -f -a '{verbs}'
{cases}"""
#: By shell: its script, and the line for one verb in it.
SCRIPTS = {
    "bash": (BASH, '            {verb}) choices="{options}" ;;'),
    "zsh": (ZSH, "            {verb}) compadd -- {options} ;;"),
    "fish": (FISH, "complete -c segpress -n '__fish_seen_subcommand_from {verb}' -a '{options}'"),
}


def main(arguments: list[str]) -> None:
    parser = new_parser(__name__, __doc__)
    parser.add_argument("shell", choices=SCRIPTS)
    args = parser.parse_args(arguments)
    script, line = SCRIPTS[args.shell]
    names = verbs.available()
    cases = [line.format(verb=name, options=" ".join(options(verbs.file_of(name)))) for name in names]
    print(script.format(verbs=" ".join(names), cases="\n".join(cases)))


def options(file: Path) -> list[str]:
    """Options that a file adds to a parser, and those of each ``arguments.py`` that it imports. Nothing is imported."""
    names = ["--help"]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").endswith(".arguments"):
            names += options(PACKAGE.parent.joinpath(*str(node.module).split(".")).with_suffix(".py"))
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in CALLS:
            values = (argument.value for argument in node.args if isinstance(argument, ast.Constant))
            names += [value for value in values if isinstance(value, str) and value.startswith("--")]
    return sorted(set(names))
