"""`align completion bash|zsh`: print a script that completes verbs, options, recipe keys and recipe names.

The script holds all words, so that completing one starts no Python. Libraries for it (argcomplete, shtab) would start
Python at every word, or know no recipe keys.
"""

import argparse
import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path

EPILOG = """bash:  align completion bash > ~/.local/share/bash-completion/completions/align
zsh:   align completion zsh >> ~/.zshrc

A new shell has it. Print the script again after an upgrade."""
# zsh runs the script of bash by its own bashcompinit.
START = {"bash": "", "zsh": "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n"}
SCRIPT = """{start}_align_options() {{
    case "$1" in
{options}
    esac
}}
_align_keys() {{
    case "$1" in
{keys}
    esac
}}
_align_arguments() {{
    case "$1" in
{arguments}
    esac
}}
_align_stages() {{
    case "$1" in
{stages}
        *) echo "{every_stage}" ;;
    esac
}}
_align() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}" verb="${{COMP_WORDS[1]}}"
    local words stage paths=
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="{verbs} --help"
    elif [ "$previous" = --from ]; then
        words="{recipes}"
    elif [ "$previous" = --until ]; then
        words="$(_align_stages "${{COMP_WORDS[2]}}")"
    elif [ "$verb" = recipe ] && [ "$COMP_CWORD" -eq 3 ]; then
        words="$(_align_keys "${{COMP_WORDS[2]}}")"
    else
        stage="${{current#--}}"; stage="${{stage%%.*}}"
        case "$current" in
            --*.*) words="$(for key in $(_align_keys "$stage"); do echo "--$stage.$key"; done)" ;;
            -*) words="$(_align_options "$verb"; for key in $(_align_keys "$verb"); do echo "--$key"; done)" ;;
            *)
                words="$(_align_arguments "$verb")"
                case "$verb" in recipe|completion) ;; *) paths=yes ;; esac
                ;;
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$current"))
    if [ -n "$paths" ]; then
        local IFS=$'\\n'
        COMPREPLY+=($(compgen -f -- "$current"))
        compopt -o filenames 2>/dev/null || true
    fi
}}
complete -o default -F _align align"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument("shell", choices=list(START), help="the shell to print the script for")


def main(args: argparse.Namespace) -> int:
    print(script(args.shell, args.verbs))
    return 0


def script(shell: str, verbs: Mapping[str, str]) -> str:
    """Return the completion script of a shell.

    Args:
        verbs: verb -> its module.
    """
    from alignment.pipeline.recipes.explain import SUBJECTS, keys_for
    from alignment.pipeline.recipes.packaged_recipes import packaged
    from alignment.stages import STAGES

    parsers = {verb: _parser(verb, module) for verb, module in verbs.items()}
    arguments = {verb: recipes_for(verb) for verb, parser in parsers.items() if parser.get_default("overrides") == []}
    return SCRIPT.format(
        start=START[shell],
        options=_cases({verb: _options(parser) for verb, parser in parsers.items()}),
        keys=_cases({subject: sorted(keys_for(subject).names) for subject in SUBJECTS}),
        arguments=_cases(arguments | {"recipe": SUBJECTS, "completion": START}),
        verbs=" ".join(verbs),
        recipes=" ".join(packaged()),
        stages=_cases({name: stages_of(folder) for name, folder in packaged().items()}),
        every_stage=" ".join(STAGES),
    )


def recipes_for(verb: str) -> list[str]:
    """Return the packaged recipes that a verb takes: a stage its recipe files, other verbs folders and files."""
    from alignment.pipeline.recipes.packaged_recipes import PIPELINE_FILE, packaged
    from alignment.stages import STAGES

    known = packaged()
    files = [f"{name}/{file.name}" for name, folder in known.items() for file in sorted(folder.glob("*.yaml"))]
    stages = [file for file in files if not file.endswith(PIPELINE_FILE)]
    return [file for file in stages if file.endswith(f"/{verb}.yaml")] if verb in STAGES else [*known, *stages]


def stages_of(folder: Path) -> list[str]:
    """Return the names of the stages of a recipe folder, in order."""
    from alignment.pipeline.recipes.pipeline_file import read_settings, stage_files

    return list(stage_files(read_settings(folder), folder))


def _parser(verb: str, module: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"align {verb}")
    parser.add_argument("--debug")
    importlib.import_module(module).add_arguments(parser)
    return parser


def _options(parser: argparse.ArgumentParser) -> list[str]:
    return [option for action in parser._actions for option in action.option_strings if option.startswith("--")]


def _cases(words: Mapping[str, Iterable[str]]) -> str:
    """Branches of a `case` that print the words of a name."""
    return "\n".join(f'        {name}) echo "{" ".join(values)}" ;;' for name, values in words.items())
