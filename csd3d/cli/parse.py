"""From words on the command line to a `Request`, for every editor the same: a dataclass of settings *is* the command.

An editor's settings (its config, and the engine's inside it) are flags under their own names; a field's docstring is
the flag's help, and its value the default that is shown. What suits depends on the prior, the method and the preset, so
words are read twice: first those few flags, which give the settings to start from, then everything on top of these.

A setting that may be None says at the end of its docstring what that means, "None: the middle one."; the flag then
shows "(default: the middle one)".
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from csd3d.cli.refusals import refusals
from csd3d.runs.settings import field_help, read_fraction

C = TypeVar("C")
T = TypeVar("T")
NO_VALUE = ("None", "''", "", "()", "False")
"""Defaults that tell a person nothing; what they mean stands in the help."""
HELP = ("-h", "--help")


@dataclass(frozen=True)
class Flag:
    """One flag, or the positional words."""

    name: str
    hint: Any
    default: Any
    help: str
    """Ends in "None: ..." where leaving it out means something."""
    positional: bool = False

    def read(self, value: Any) -> Any:
        """A value as tyro gives it, in the type of the setting. Raises ValueError for text that is no fraction."""
        options = get_args(self.hint) or (self.hint,)
        if isinstance(value, str) and Fraction in options and str not in options:
            return read_fraction(value, self.name)
        return value


@dataclass(frozen=True)
class Group:
    """Flags under one heading of `--help`."""

    title: str
    about: str
    flags: tuple[Flag, ...]


def flags_of(config: object, *, without: Sequence[str] = ()) -> dict[str, Flag]:
    """A flag for each field of a dataclass object, whose values are the defaults."""
    kind = type(config)
    hints, help_of = get_type_hints(kind), field_help(kind)
    # any dataclass, which has no type of its own
    names = [f.name for f in fields(config) if f.name not in without]  # pyright: ignore[reportArgumentType]
    return {name: Flag(name, hints[name], getattr(config, name), help_of.get(name, "")) for name in names}


def settings_flags(config: Any) -> tuple[dict[str, Flag], dict[str, Flag]]:
    """The flags of an editor's config, and those of the engine's in its `csd`, which must be there."""
    own = flags_of(config, without=("csd",))
    assert config.csd is not None
    return own, flags_of(config.csd, without=tuple(own))


def put(config: C, values: Mapping[str, Any]) -> C:
    """`config` with the values of its flags, in it and in the engine's settings."""
    own, engine = settings_flags(config)
    # the names were read from the same dataclasses
    csd = replace(config.csd, **{k: v for k, v in values.items() if k in engine})  # pyright: ignore[reportAttributeAccessIssue]
    # the names were read from the same dataclasses
    return replace(config, **{k: v for k, v in values.items() if k in own}, csd=csd)  # pyright: ignore[reportArgumentType, reportCallIssue]


def read_flags(groups: Sequence[Group], argv: Sequence[str], *, prog: str, about: str) -> dict[str, Any]:
    """The value of every flag, from the words given or by default. Ends the program after --help.

    Raises:
        ValueError: words that make no sense.
    """
    parts = [(_slug(g.title), _group_type(g), g) for g in _named_groups(groups, argv)]
    top = make_dataclass(
        "Command",
        [
            (slug, Annotated[kind, tyro.conf.OmitArgPrefixes, tyro.conf.arg(help=g.about)], field(default_factory=kind))
            for slug, kind, g in parts
        ],
        frozen=True,
    )
    top.__doc__ = about
    done = read_words(top, argv, prog=prog, description=about)
    given = {f.name: getattr(getattr(done, slug), f.name) for slug, _, g in parts for f in g.flags}
    return {f.name: f.read(given.get(f.name, f.default)) for g in groups for f in g.flags}


def read_some(flags: Sequence[Flag], argv: Sequence[str], *, prog: str) -> dict[str, Any]:
    """The values of a few flags, whatever else is among the words."""
    words = [word for word in argv if word not in HELP]
    done = None
    if named := _named(flags, words):
        kind = _group_type(Group("", "", named))
        with refusals(kind, ()):
            done, _ = tyro.cli(kind, prog=prog, args=words, return_unknown_args=True, add_help=False, **HOW)
    return {f.name: f.read(getattr(done, f.name, f.default)) for f in flags}


def _named(flags: Sequence[Flag], argv: Sequence[str]) -> tuple[Flag, ...]:
    """Those of the flags that are among the words, and the positional ones."""
    words = set(map(_flag_of, argv))
    return tuple(f for f in flags if f.positional or words & _spellings(f))


def _named_groups(groups: Sequence[Group], argv: Sequence[str]) -> Sequence[Group]:
    """The groups with the flags that are named alone, since a hundred flags take tyro ten times as long; all flags
    where help is asked for, or for what is none of them, so that it can be said what there is."""
    known = set[str]().union(*(_spellings(f) for g in groups for f in g.flags))
    named = [replace(g, flags=_named(g.flags, argv)) for g in groups]
    understood = {_flag_of(word) for word in argv if word.startswith("-")} <= known
    return [g for g in named if g.flags] if understood and any(g.flags for g in named) else groups


def _flag_of(word: str) -> str:
    return word.partition("=")[0].replace("_", "-")


def _spellings(flag: Flag) -> set[str]:
    """How a flag may stand among the words, as `_flag_of` gives it."""
    name = flag.name.replace("_", "-")
    return {f"--{name}", f"--no-{name}"}


def read_dataclass(kind: type[T], argv: Sequence[str], *, prog: str) -> T:
    """A plain command's dataclass, or a union of them, from the words. Ends the program after --help.

    Raises:
        ValueError: words that make no sense.
    """
    return read_words(kind, argv, prog=prog)


def read_words(kind: Any, argv: Sequence[str], *, prog: str, description: str | None = None) -> Any:
    """What tyro makes of the words; see `read_dataclass`."""
    with refusals(kind, argv):
        return tyro.cli(kind, prog=prog, description=description, args=list(argv), **HOW)


def with_first(argv: Sequence[str], subcommand: str) -> list[str]:
    """The words, with the subcommand that goes without saying put first where they begin with a flag of it."""
    return [subcommand, *argv] if argv[:1] and argv[0].startswith("-") and argv[0] not in HELP else list(argv)


def choose(commands: Mapping[str, str], argv: Sequence[str], *, prog: str, about: str) -> tuple[str, list[str]]:
    """Which of the commands (their names and what help says of them) the first word is, and the other words."""
    head, rest = split(argv)
    if len(head) == 1 and head[0] in commands:
        return head[0], rest
    kinds = subcommands(commands)
    chosen = read_words(kinds, head or ["--help"], prog=prog, description=about)
    return type(chosen).__name__, rest


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """(the words up to the first that is no flag; those after it)."""
    for i, word in enumerate(argv):
        if not word.startswith("-"):
            return list(argv[: i + 1]), list(argv[i + 1 :])
    return list(argv), []


def with_home(word: str) -> str:
    """A word of a command line, "--flag=~/place" with the home folder put in, which shells do not do after "="."""
    flag, sign, value = word.partition("=")
    return f"{flag}={os.path.expanduser(value)}" if sign and flag.startswith("--") and value[:1] == "~" else word


def subcommands(commands: Mapping[str, str]) -> Any:
    """A union of empty classes, one for each command, so that help lists them and nothing of theirs is imported."""
    kinds = [
        Annotated[make_dataclass(name, ()), tyro.conf.subcommand(name, description=text)]
        for name, text in commands.items()
    ]
    return Union[tuple(kinds)]  # noqa: UP007 - built at run time


def _path_of(words: Sequence[str]) -> Path:
    """Raises ValueError for an empty word, as an unset variable of a shell leaves it: pathlib would take it for the
    working folder."""
    if not words[0]:
        raise ValueError("expected a path, got ''")
    return Path(words[0])


PATHS = ConstructorRegistry()
"""How paths are read."""


@PATHS.primitive_rule
def _of_paths(kind: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Path] | None:
    if kind.type is not Path:
        return None
    return PrimitiveConstructorSpec(
        1, "PATH", _path_of, lambda value: isinstance(value, Path), lambda path: [str(path)]
    )


SETTINGS = (tyro.conf.DisallowNone, tyro.conf.FlagCreatePairsOff)
"""An optional setting is left out, not given as the word None; a switch has one word, the one that changes it."""
HOW: Mapping[str, Any] = {"config": SETTINGS, "registry": PATHS}
"""The parser's own settings."""


def _group_type(group: Group) -> type:
    made = make_dataclass(
        _slug(group.title).title() or "Flags",
        [(f.name, _annotated(f), field(default=f.default)) for f in group.flags],
        frozen=True,
    )
    made.__doc__ = group.title
    return made


def _annotated(flag: Flag) -> Any:
    text, _, meaning = flag.help.rpartition("None: ")
    if not text:
        text, meaning = meaning, ""
    shown = f"(default: {meaning.rstrip('.')})" if meaning else None
    marks: list[Any] = [tyro.conf.arg(help=text.strip(), help_behavior_hint=_hint(shown))]
    if flag.positional:
        marks.append(tyro.conf.Positional)
    elif flag.hint == tuple[str, ...]:
        marks.append(tyro.conf.UseAppendAction)
    hint = _as_text(flag.hint)
    return Annotated[(hint, *marks)]


def _hint(shown: str | None) -> Callable[[str], str]:
    return lambda default: shown or ("" if default in NO_VALUE else f"(default: {default})")


def _as_text(hint: Any) -> Any:
    """Fractions are read as text, so that a mistake is explained in the setting's own words."""
    if hint is Fraction:
        return str
    if get_origin(hint) is Union or isinstance(hint, type(int | None)):
        return Union[tuple(_as_text(option) for option in get_args(hint))]  # noqa: UP007 - built at run time
    return hint


def _slug(title: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in title.lower()).strip("_")
