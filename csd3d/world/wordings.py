"""What can be asked for in words: a name, a kind, and sentences of which the last is kept from training."""

from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["colour", "material", "shape", "add", "remove", "time", "weather", "ground", "sky", "style"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Worded:
    """Something that sentences ask for."""

    name: str
    """Unique, e.g. "colour ball red"."""
    kind: Kind
    wordings: tuple[str, ...]
    """Sentences that ask for it, all but the last for training. None for an edit that no sentence names
    (`families.variants`)."""

    @property
    def trained(self) -> tuple[str, ...]:
        """The wordings priors learn from."""
        return self.wordings[:-1]

    @property
    def held_out(self) -> str:
        """The wording no prior has seen."""
        return self.wordings[-1]


def normalise(sentence: str) -> str:
    """Lower case, no punctuation, single spaces."""
    return " ".join("".join(ch if ch.isalnum() else " " for ch in sentence.lower()).split())
