"""What is said of words that the parser cannot read: one line, what was expected and what arrived.

Tyro tells of every mistake as an event, of a module that is private to it; where that is missing, or knows another
mistake than those of here, tyro prints its own account, and the exit code is 2 all the same.
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
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
ELSEWHERE: Mapping[str, str] = {
    "prompt": "text text-prompt instruction edit edit-prompt editing-prompt target-prompt caption sentence p",
    "task": "prompt text instruction edit target-prompt caption",
    "source-prompt": "source-caption src-prompt source-text inversion-prompt input-caption",
    "negative-prompt": "negative neg-prompt n-prompt uncond-prompt",
    "steps": "num-inference-steps num-steps n-steps iterations iters num-iterations max-iterations max-steps epochs",
    "s-text": "cfg cfg-scale cfg-text text-cfg guidance guidance-scale text-guidance text-guidance-scale w",
    "s-image": "image-guidance image-guidance-scale image-cfg cfg-image image-cfg-scale",
    "strength": "edit-strength denoising-strength denoise",
    "output": "out o output-path output-file out-path output-dir out-dir outdir output-folder save save-path result",
    "run-dir": "output-dir out-dir outdir output-folder exp-dir work-dir logdir",
    "prior": "model model-id model-name model-path base-model pretrained-model checkpoint ckpt m",
    "precision": "fp16 bf16 half dtype torch-dtype",
    "device": "gpu gpu-id gpus cuda cpu",
    "lr": "learning-rate",
    "size": "resolution res image-size img-size width height",
    "max-frames": "frames num-frames n-frames video-length",
    "frames-per-step": "batch-size chunk-size",
    "windows-per-step": "batch-size",
    "batch": "batch-size",
    "n": "num-images num-samples n-samples num-images-per-prompt number count n",
    "preview": "first-look dry-run",
    "mask": "mask-image mask-path inpaint-mask",
    "mask-words": "mask-prompt mask-text mask-phrase",
}
"""What other programs call a setting: of our flag, without dashes, their names of it."""
INPUT = (
    "input i in source src file path image img picture photo video clip input-path input-image init-image source-image"
)
"""What other programs call what is edited, which is no flag here."""
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
    positional: tuple[str, ...]


def known(kind: Any) -> Known:
    """What tyro makes of a dataclass, or of a union of them; all flags are called by their last name."""
    found = list(_words(kind))
    flags = (*ALWAYS, *(word for word in found if word.startswith("-")))
    positional = tuple(word.strip("<>") for word in found if word.startswith("<"))
    return Known(flags, tuple(word for word in found if not word.startswith(("-", "<"))), positional)


def like(word: str, among: Sequence[str]) -> list[str]:
    """Those that someone may have meant by a word, the likeliest first: what others call so, else what looks so."""
    named = [f"--{flag}" for flag, names in ELSEWHERE.items() if word.startswith("-") and _bare(word) in names.split()]
    if meant := [flag for flag in named if flag in among]:
        return meant[:MANY]
    close = difflib.get_close_matches(word, among, n=MANY, cutoff=0.7)
    inside = [other for other in among if len(word) > len("--x") and word.lstrip("-") in other]
    return [other for other in dict.fromkeys((*close[:1], *inside, *close[1:])) if other != word][:MANY]


def _bare(word: str) -> str:
    return word.lstrip("-").replace("_", "-")


def _words(kind: Any) -> Iterator[str]:
    """Flags, subcommands, and positional words as "<name>"."""
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
        elif tyro.conf.Positional in getattr(hint, "__metadata__", ()):
            yield f"<{each.name}>"
        else:
            yield f"--{'no-' if each.default is True else ''}{each.name.replace('_', '-')}"


def _of_unknown(prog: str, kind: Any, argv: Sequence[str]) -> str | None:
    """Of flags that no command of `kind` has, which may be why others are missing."""
    words = known(kind)
    names = [word.partition("=")[0] for word in argv if re.match(r"--|-[A-Za-z]$", word)]
    return _unknown(prog, [name for name in names if name.replace("_", "-") not in words.flags], words)


def _unknown(prog: str, names: Sequence[str], words: Known) -> str | None:
    if not names:
        return None
    meant = [other for name in names for other in _without_flag(name, words) or like(name, words.flags)]
    return f"expected flags of {prog}, got {', '.join(names)}{_perhaps(meant) or ' (--help shows all)'}"


def _without_flag(name: str, words: Known) -> list[str]:
    """The positional word that a flag may stand for: what is edited, or where samples are written."""
    first = words.positional[:1]
    names = f"output {ELSEWHERE['output']}" if first == ("out",) else INPUT
    return [f"{word.upper()} without a flag" for word in first if _bare(name) in names.split()]


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
        value, metavar = (got[1] or got[2] or "''").replace("', '", " "), event.argument.lowered.metavar
        near = _perhaps(_as_number(value, metavar))
        return f"{_name(event.argument)}: expected {_expected(metavar)}, got {value}{near}"
    return None


def _name(argument: "ArgumentDefinition") -> str:
    """Of a flag, or of a word in the words of its command."""
    name = argument.display_name()
    return name if name.startswith("-") else name.rpartition(".")[2]


def _of_tokens(prog: str, tokens: Sequence[str], words: Known) -> str:
    flags = [token.partition("=")[0] for token in tokens if token.startswith("-")]
    line = _unknown(prog, flags, words)
    if line is not None:
        return line
    if words.subcommands and tokens[0] not in words.subcommands:
        near = _perhaps(like(tokens[0], words.subcommands)[:1])
        return f"expected one of {', '.join(words.subcommands)}, got {tokens[0]}{near}"
    return f"expected no further words, got {' '.join(tokens)}"


def _as_number(value: str, metavar: str | None) -> list[str]:
    """The number that was meant by 30%, 0,3 or, where a whole one is expected, 20.0."""
    got, kinds = re.fullmatch(r"(-?\d+(?:[.,]\d+)?)(%?)", value), (metavar or "").split("|")
    if got is None:
        return []
    number = float(got[1].replace(",", ".")) / (100 if got[2] else 1)
    return [f"{number:g}"] if "FLOAT" in kinds or ("INT" in kinds and number.is_integer()) else []


def _expected(metavar: str | None) -> str:
    """What a value is, in words: of tyro's INT|{auto}."""
    options = (metavar or "a value").strip("[]").split("|")
    return " or ".join(_IN_WORDS.get(option, option.strip("{}").replace(",", ", ")) for option in options)
