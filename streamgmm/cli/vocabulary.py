"""Messages of the library in the words of the command line.

The library writes arguments as Python does: ``missing='drop'``, ``out=``, ``n_components``. A
command shows the options that set them: ``--missing drop``, ``--output``, ``--components``.
"""

import re
from collections.abc import Iterable, Mapping

import click

# Arguments of the library that are set by an option of another name.
_OTHER_ARGUMENTS = {
    "output": ("out",),
    "start": ("weights_init", "means_init", "precisions_init"),
}
# Numbers that no option sets.
_WORDS = {"n_samples": "rows", "n_features": "features"}
# All arguments without an underscore are also English words, except this one.
_NO_ENGLISH_WORD = {"tol"}
# Text before lines of Python in a message.
_CODE = "in Python: "
# Value after an argument: a list, a text, True, or nothing.
_VALUE = r"(?P<value>\[[^\]]*\]|'[^']*'|\"[^\"]*\"|True\b|(?![\w/]))"
# Parts of paths and names in quotes are data.
_BEFORE, _AFTER = r"(?<![\w./'\"=-])", r"(?!\w|[./=-]\w|['\"=])"


def in_options(text: str, context: click.Context) -> str:
    """Return a message with options in the place of arguments of Python.

    Parameters
    ----------
    text : str
    context : click.Context
        Of the command, whose options these are. Arguments that only other commands have an option
        for become plain words.

    Returns
    -------
    str
    """
    # Lines of Python that a message shows stay as they are.
    text, marker, code = text.partition(_CODE)
    words = _words(context)
    names = _any_of(words)
    bare = _any_of(name for name in words if "_" in name or name in _NO_ENGLISH_WORD)

    def word(match: re.Match[str]) -> str:
        value = _as_word(match.groupdict().get("value") or "")
        return f"{words[match['name']]} {value}".rstrip()

    # Replace calls by their arguments, and other functions by the commands of the same name.
    text = re.sub(r"streamgmm\.open\((?:\w+|\.\.\.), ([^()]*)\)", r"\1", text)
    text = re.sub(r"\bstreamgmm\.(update|open|load)\b", r"streamgmm \1", text)
    # scikit-learn's sentences for a setting that is not valid.
    text = re.sub(rf"The (?:parameter )?'(?P<name>{names})'(?: parameter of \w+)?", word, text)
    text = re.sub(rf"{_BEFORE}(?P<name>{names})={_VALUE}", word, text)
    text = re.sub(rf"{_BEFORE}(?P<name>{bare}){_AFTER}", word, text)
    # Several arguments may be set by one option.
    return re.sub(r"(--[a-z-]+)(?:,? (?:and |or )?\1\b)+", r"\1", text) + marker + code


def _words(context: click.Context) -> Mapping[str, str]:
    """Return what stands for each argument of the library."""
    program = context.find_root().command
    commands = program.commands.values() if isinstance(program, click.Group) else []
    others = {name: name.replace("_", " ") for other in commands for name in _options(other)}
    return {**_WORDS, **others, **_options(context.command)}


def _options(command: click.Command) -> dict[str, str]:
    """Return the option of a command for each argument of the library."""
    options: dict[str, str] = {}
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.name is not None:
            for name in (parameter.name, *_OTHER_ARGUMENTS.get(parameter.name, ())):
                options[name] = max(parameter.opts, key=_preference)
    return options


def _preference(option: str) -> tuple[bool, int]:
    """Return a key that is highest for the shortest of the long options."""
    return option.startswith("--"), -len(option)


def _any_of(names: Iterable[str]) -> str:
    """Return a pattern for any of some names, of which one may begin with another."""
    return "|".join(sorted(map(re.escape, names), key=len, reverse=True))


def _as_word(value: str) -> str:
    """Return a value of Python as a word of a shell; of True nothing, as flags are set."""
    if value == "True":
        return ""
    if value.startswith("["):
        return ",".join(name.strip().strip("'\"") for name in value[1:-1].split(","))
    return value.strip("'\"")
