"""What is said of words that the parser cannot read: one line, what was expected and what arrived.

Tyro tells of every mistake as an event, of a module that is private to it; where that is missing, or knows another
mistake than those of here, tyro prints its own account, and the exit code is 2 all the same.
"""

import difflib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

import tyro

if TYPE_CHECKING:
    from tyro import _errors as events
    from tyro._arguments import ArgumentDefinition

ALWAYS = ("-h", "--help")
MANY = 3
"""Suggestions at most."""
_SUBCOMMAND: Any = type(tyro.conf.subcommand())
_IN_WORDS = {"INT": "a whole number", "FLOAT": "a number", "STR": "text", "PATH": "a path"}


@contextmanager
def refusals(kind: Any, argv: Sequence[str]) -> Iterator[None]:
    """Within the block, `argv` that tyro cannot read as a `kind` (a dataclass, or a union of them) is a ValueError."""
    try:
        from tyro import _errors as events
    except ImportError:
        yield
        return

    def refuse(event: "events.ParseErrorEvent") -> None:
        line = _of_unknown(event.prog, kind, argv) or _of_event(event, kind)
        if line:
            raise ValueError(" ".join(line.split()))

    with events.on_parse_error(refuse):
        yield


@dataclass(frozen=True)
class Known:
    """The words that a type gives to its command."""

    flags: tuple[str, ...]
    subcommands: tuple[str, ...]


def known(kind: Any) -> Known:
    """What tyro makes of a dataclass, or of a union of them; all flags are called by their last name."""
    found = list(_words(kind))
    flags = (*ALWAYS, *(word for word in found if word.startswith("-")))
    return Known(flags, tuple(word for word in found if not word.startswith("-")))


def like(word: str, among: Sequence[str]) -> list[str]:
    """Those that someone may have meant by a word, the likeliest first."""
    close = difflib.get_close_matches(word, among, n=MANY, cutoff=0.7)
    inside = [other for other in among if len(word) > len("--x") and word.lstrip("-") in other]
    return [other for other in dict.fromkeys((*close[:1], *inside, *close[1:])) if other != word][:MANY]


def _words(kind: Any) -> Iterator[str]:
    if get_origin(kind) is Annotated:
        kind, *marks = get_args(kind)
        yield from (mark.name for mark in marks if isinstance(mark, _SUBCOMMAND))
    if not is_dataclass(kind):
        for part in get_args(kind):
            yield from _words(part)
        return
    hints = get_type_hints(kind, include_extras=True)
    for each in fields(kind):
        hint = hints[each.name]
        inner = list(_words(hint))
        if inner:
            yield from inner
        elif tyro.conf.Positional not in getattr(hint, "__metadata__", ()):
            yield f"--{'no-' if each.default is True else ''}{each.name.replace('_', '-')}"


def _of_unknown(prog: str, kind: Any, argv: Sequence[str]) -> str | None:
    """Of flags that no command of `kind` has, which may be why others are missing."""
    flags = known(kind).flags
    names = [word.partition("=")[0] for word in argv if word.startswith("--")]
    return _unknown(prog, [name for name in names if name.replace("_", "-") not in flags], flags)


def _unknown(prog: str, names: Sequence[str], flags: Sequence[str]) -> str | None:
    if not names:
        return None
    meant = [other for name in names for other in like(name, flags)]
    return f"expected flags of {prog}, got {', '.join(names)}{_perhaps(meant) or ' (--help shows all)'}"


def _perhaps(meant: Sequence[str]) -> str:
    return f"; perhaps {' or '.join(dict.fromkeys(meant))} is meant" if meant else ""


def _of_event(event: "events.ParseErrorEvent", kind: Any) -> str | None:
    from tyro import _errors as events

    if isinstance(event, events.UnrecognizedArgs):
        return _of_tokens(event.prog, event.tokens, known(kind))
    if isinstance(event, events.MissingArgs):
        missing = [each.arg for each in event.missing_arguments]
        return f"expected {', '.join(f'{_name(arg)} {arg.lowered.metavar}' for arg in missing)}, got none"
    if isinstance(event, events.MissingSubcommand):
        return f"expected one of {', '.join(event.subcommand_spec.parser_from_name)}, got none"
    if isinstance(event, events.InvalidChoice):
        choices = sorted(choice for choice in event.choices if choice != "None")
        expected = f"expected one of {', '.join(choices)}"
        return f"{_name(event.argument)}: {expected}, got {event.value}{_perhaps(like(event.value, choices)[:1])}"
    if isinstance(event, events.BadValue):
        return f"{_name(event.argument)}: expected {_expected(event.argument.lowered.metavar)}, got none"
    if isinstance(event, events.InstantiationFailure) and event.argument is not None:
        got = re.search(r"\['(.*?)'\]|'([^']*)'", event.message)
        if got is None:
            return f"{_name(event.argument)}: {event.message}"
        value = (got[1] or got[2] or "''").replace("', '", " ")
        return f"{_name(event.argument)}: expected {_expected(event.argument.lowered.metavar)}, got {value}"
    return None


def _name(argument: "ArgumentDefinition") -> str:
    """Of a flag, or of a word in the words of its command."""
    name = argument.display_name()
    return name if name.startswith("-") else name.rpartition(".")[2]


def _of_tokens(prog: str, tokens: Sequence[str], words: Known) -> str:
    flags = [token.partition("=")[0] for token in tokens if token.startswith("-")]
    line = _unknown(prog, flags, words.flags)
    if line is not None:
        return line
    if words.subcommands and tokens[0] not in words.subcommands:
        near = _perhaps(like(tokens[0], words.subcommands)[:1])
        return f"expected one of {', '.join(words.subcommands)}, got {tokens[0]}{near}"
    return f"expected no further words, got {' '.join(tokens)}"


def _expected(metavar: str | None) -> str:
    """What a value is, in words: of tyro's INT|{auto}."""
    options = (metavar or "a value").split("|")
    return " or ".join(_IN_WORDS.get(option, option.strip("{}").replace(",", ", ")) for option in options)
