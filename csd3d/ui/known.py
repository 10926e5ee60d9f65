"""What a person may ask of a prior, for the page: sentences to complete, and a list of them by kind."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from csd3d.priors.prompts.photographs import Mark
from csd3d.priors.prompts.vocabulary import Vocabulary
from csd3d.priors.prompts.words import Words

MARKS: Mapping[Mark, str] = {"yes": "", "in part": "on photographs in part", "no": "in drawn pictures only"}
"""How the page says what is done to photographs."""


@dataclass(frozen=True)
class Known:
    """What one prior knows; nothing, where any text will do."""

    sentences: Sequence[str] = ()
    """Offered as completions."""
    groups: Sequence[tuple[str, str, Sequence[str]]] = ()
    """Kind, what is to be said of it (may be empty), and sentences or words of it."""

    @property
    def text(self) -> str:
        """The groups, in Markdown."""
        return "\n\n".join(
            f"**{kind}**{f' ({said})' if said else ''}: {', '.join(items)}" for kind, said, items in self.groups
        )


def known_of(vocabulary: Vocabulary | Words | None, marks: Mapping[str, Mark]) -> Known:
    """What a prior with this vocabulary knows, kinds that serve photographs first. `marks`: what each kind of edit does
    on photographs."""
    if vocabulary is None:
        return Known()
    if isinstance(vocabulary, Words):
        return Known((), [(name, "", words) for name, words in vocabulary.groups.items()])
    kinds: dict[str, list[str]] = {}
    for entry in vocabulary.edits.values():
        kinds.setdefault(entry.kind, []).append(entry.wordings[0])
    kinds = dict(sorted(kinds.items(), key=lambda item: [*MARKS, None].index(marks.get(item[0]))))
    first = [sentence for sentences in kinds.values() for sentence in sentences]
    others = [wording for entry in vocabulary.edits.values() for wording in entry.wordings[1:]]
    groups = [(kind, MARKS[marks[kind]] if kind in marks else "", sentences) for kind, sentences in kinds.items()]
    return Known([*first, *others], groups)
