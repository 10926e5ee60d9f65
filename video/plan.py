"""Which frames become particles, under which sentence, and what each frame of the clip is then made of.

Usually every frame is one particle. `0-3s: make it day, 3-6s: make it night` gives each time its sentence; around the
border between two, frames are particles of both, and the picture fades from one to the other. Frames of no sentence
stay as they are. With key frames only those are particles.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from csd3d.engine.residuals import Score
from csd3d.engine.step import require_coupling
from csd3d.engine.transport import Correspondences
from csd3d.media.clip.source import Clip
from csd3d.media.geometry import WorkingSize, working_size
from csd3d.priors.prior import Prior, Prompts
from csd3d.runs.sampling import SampledEdit, score_of_edit
from video.config import VideoConfig
from video.particles import Batching

_CLOCK, _TO = r"\d+(?::[0-5]?\d){0,2}(?:\.\d+)?", r"(?:-|–|—|to\b)\s*"
_UNIT = r"(?:s|secs?|seconds?|m|mins?|minutes?)\b"
_SPAN = re.compile(
    rf"(?:^|[,;\n])[^\S\n]*({_CLOCK})\s*(?:({_UNIT})\s*)?{_TO}(?:(?:({_CLOCK})\s*)?(?:({_UNIT})\s*)?|end\s*):(?!\d)",
    re.I,
)
_LIKE_TIMES = re.compile(
    rf"\s*(?:(?:at|from|after|until|between)\s+)?-?{_CLOCK}\s*"
    rf"(?:{_UNIT}\s*:|(?:{_UNIT}\s*)?(?:{_TO}|and\s+)-?{_CLOCK}\s*(?:{_UNIT}|:(?!\d)|[\])}}]))"
    rf"|\s*\d+:[0-5]\d\s*{_TO}\d+:[0-5]\d\b",
    re.I,
)
"""How a sentence begins that was meant to have times."""
_HEAD = re.compile(r"(?:[^:\uff1a]|[:\uff1a]\d)*[:\uff1a](?!\d)")
"""What stands before a sentence after a colon."""
_MOMENT = re.compile(r"\d+(?:[.:,]\d+)*|\b(?:nan|inf|infinity|start|begin|beginning|middle|end)(?=\b|\d)", re.I)
_UNITS = re.compile("s|secs?|seconds?|m|mins?|minutes?|h|hours?|ms|f|frames?")
_BETWEEN = re.compile("at|from|after|until|till|between|to|then|and|the|of|first|last|in|for|e|t|time")
"""Words that stand with moments and units in what is meant as times."""
_OF = r"(?:(?:in|of|from) +)?the +"
_DECADE = re.compile(
    rf"(?:{_OF}['\u2019]?(?:\d\d)?\d0|['\u2019]\d0|(?:1\d|20)\d0)['\u2019]?s"
    rf"(?:\s*(?:-|–|—|to\b|and\b)\s*(?:the +)?['\u2019]?(?:\d\d)?\d0['\u2019]?s)?\s*[:\uff1a]",
    re.I,
)
"""What reads as times and is none, where it is the only one of a prompt: `1980s:`, `in the 90s:`, `1980s-1990s:`; not
`10s:`, of which nobody can tell."""
UNEDITED = -1
"""The sentence of frames outside all times of a prompt."""


@dataclass(frozen=True)
class Span:
    """One sentence and the time for which it holds, in seconds from the first frame."""

    sentence: str
    start_s: float = 0.0
    end_s: float = math.inf


@dataclass(frozen=True)
class Plan:
    """The particles of a clip, in the order of their frames."""

    sentences: tuple[str, ...]
    frames: tuple[int, ...]
    """The frame of each particle."""
    prompt_index: tuple[int, ...]
    """The number of its sentence; `UNEDITED` for what does not move."""
    blend_weights: tuple[tuple[tuple[int, float], ...], ...]
    """For each frame of the clip the particles that it is made of, with weights that add up to 1; none for frames that
    are carried over from key frames."""

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """The particles of each sentence: only these move together."""
        of = tuple(
            tuple(i for i, index in enumerate(self.prompt_index) if index == k) for k in range(len(self.sentences))
        )
        return tuple(group for group in of if group)


def spans_of(prompt: str) -> tuple[Span, ...]:
    """The sentences of a prompt with their times; a prompt without times holds for the whole clip.

    Commas, semicolons or new lines stand between them.
    Times are `0-3s:`, `0-3:`, `1.5s-3s:`, `3s-:`, `0-1 min:`, `0:00-0:03:`, `1:00:00 to 1:00:30:`.

    Raises:
        ValueError: a time without a sentence, that ends before it begins, that overlaps the one before, or in words of
            which no time can be made.
    """
    marks = list(_SPAN.finditer(prompt))
    decades = len(marks) == 1 and _DECADE.match(prompt.lstrip())
    if not marks or prompt[: marks[0].start()].strip() or decades:
        _require_no_times(prompt, decades=True)
        return (Span(prompt.strip()),)
    spans: list[Span] = []
    ends = [*(m.start() for m in marks[1:]), len(prompt)]
    for mark, end in zip(marks, ends, strict=True):
        sentence = prompt[mark.end() : end].strip().rstrip(",;").strip()
        first, last = _seconds(mark[1], mark[2] or mark[4]), _seconds(mark[3], mark[4]) if mark[3] else math.inf
        named = repr(mark[0].strip(" ,;"))
        if not sentence:
            raise ValueError(f"prompt: expected a sentence after {named}, got none")
        _require_no_times(sentence)
        if first >= last or (spans and first < spans[-1].end_s):
            raise ValueError(f"prompt: expected times that follow each other, got {named} in {prompt!r}")
        spans.append(Span(sentence, first, last))
    return tuple(spans)


def _require_no_times(sentence: str, *, decades: bool = False) -> None:
    """Raises ValueError for words in a sentence that were meant as times; a lone decade may stand, with `decades`."""
    texts = [part.lstrip(" \t[({<") for part in (sentence, *re.split(r"[,;|\n]|[.!]\s", sentence))]
    found = {like[0].strip(): text for text in texts if (like := _LIKE_TIMES.match(text) or _head_of_times(text))}
    first, text = next(iter(found.items()), ("", ""))
    if found and not (decades and len(found) == 1 and _DECADE.match(text)):
        hint = f" (a decade is `the {first}`)" if re.fullmatch(r"[2-9]0s\s*:", first) else ""
        expected = "prompt: expected times such as `0-3s:` before each sentence or none"
        raise ValueError(f"{expected}, got {first:.40}{hint}")


def _head_of_times(text: str) -> re.Match[str] | None:
    """What stands before a colon, if it says nothing but two moments, or one and a unit: `nan-1s:`, `frames 0-9:`."""
    if (head := _HEAD.match(text)) is None:
        return None
    moments, rest = len(_MOMENT.findall(head[0])), _MOMENT.sub(" ", head[0]).lower()
    words = re.findall(r"[^\W\d_]+", rest)
    units = list(filter(_UNITS.fullmatch, words))
    meant = len(units) + len(list(filter(_BETWEEN.fullmatch, words))) == len(words)
    return head if meant and moments + bool(units) > 1 and moments else None


def _seconds(clock: str, unit: str | None) -> float:
    """Of `90`, `1.5` with a unit (None: seconds), or of `1:30` and `1:00:00`, which have none."""
    value = 0.0
    for part in clock.split(":"):
        value = 60 * value + float(part)
    return value * 60 if ":" not in clock and (unit or "").lower().startswith("m") else value


def plan_frames(spans: Sequence[Span], times_s: Sequence[float], *, fade_s: float = 0.0, strict: bool = True) -> Plan:
    """Every frame under the sentence of its time, with cross-fades of `fade_s` where one sentence follows another.

    `times_s` says when each frame is shown, from the first one on.

    Raises:
        ValueError: no frame belongs to a sentence, unless not `strict`.
    """
    sentences = tuple(dict.fromkeys(span.sentence for span in spans))
    frames, prompt_index, weights = list[int](), list[int](), list[tuple[tuple[int, float], ...]]()
    met: set[str] = set()
    for i, time in enumerate(times_s):
        parts = dict[int, float]()
        for k in range(len(spans)):
            if weight := _weight(spans, k, time, fade_s):
                number = sentences.index(spans[k].sentence)
                parts[number] = parts.get(number, 0.0) + weight
                met.add(spans[k].sentence)
        parts = parts or {UNEDITED: 1.0}
        weights.append(tuple((len(frames) + p, weight) for p, weight in enumerate(parts.values())))
        frames += [i] * len(parts)
        prompt_index += parts
    if strict and (unmet := [span for span in spans if span.sentence not in met]):
        asked = f"{unmet[0].start_s:g}-{unmet[0].end_s:g} s for {unmet[0].sentence!r}".replace(
            "-inf s", " s to the end"
        )
        raise ValueError(f"prompt: expected times within the clip, which ends at {times_s[-1]:.2f} s, got {asked}")
    return Plan(sentences, tuple(frames), tuple(prompt_index), tuple(weights))


def times_of(clip: Clip) -> list[float]:
    """When each frame is shown, in seconds from the first."""
    info = clip.info
    return [float((pts - info.pts[0]) * info.time_base) for pts in info.pts]


def size_of_clip(clip: Clip, size_px: int, multiple_px: int) -> WorkingSize:
    """At which a prior works on a clip."""
    info = clip.info
    return working_size(info.display_aspect, size_px, multiple_px, source_px=min(info.width_px, info.height_px))


def plan_keys(sentence: str, keys: Sequence[int]) -> Plan:
    """Only the key frames, under one sentence."""
    return Plan((sentence,), tuple(keys), (0,) * len(keys), ())


def batching_of(config: VideoConfig, plan: Plan) -> Batching:
    """How the particles of a clip are put into batches."""
    budget = config.frames_per_step
    draw = config.draw or ("window" if config.engine.coupling == "motion" else "stratified")
    return Batching(budget, draw, min(config.anchors, budget // 2), plan.groups)


def score_of(
    prior: Prior, plan: Plan, config: VideoConfig, motion: Correspondences
) -> tuple[Score, SampledEdit | None]:
    """The prior under the sentences of a plan, and how frames are sampled if they are. Raises ValueError for what it
    cannot serve."""
    sizes = batching_of(config, plan).sizes(len(plan.frames))
    return score_of_edit(prior, prompts_of(plan, config), config, motion, sizes=sizes)


def require_keys(plan: Plan, config: VideoConfig) -> None:
    """Raises ValueError for key frames, as many as shots ask for, that a step of moves cannot couple."""
    if config.by == "moves":
        require_coupling(config.engine, batching_of(config, plan).sizes(len(plan.frames)))


def prompts_of(plan: Plan, config: VideoConfig, *, of: Sequence[int] | None = None) -> Prompts:
    """The sentences of a plan's particles, or `of` others, by their numbers."""
    several, numbers = len(plan.sentences) > 1, plan.prompt_index if of is None else of
    assign = torch.tensor(numbers).clamp_min(0) if several else None  # frames of no sentence take part in no step
    target = plan.sentences if several else plan.sentences[0]
    return Prompts(target, config.source_prompt, assign, config.negative_prompt)


def _weight(spans: Sequence[Span], k: int, time: float, fade_s: float) -> float:
    """Weight of span k at a time: 1 within it, falling evenly to 0 across a border with another."""
    before, after = spans[k - 1] if k else None, spans[k + 1] if k + 1 < len(spans) else None
    rises = _past(spans[k].start_s, before, spans[k], time, fade_s)
    return max(round(rises - _past(spans[k].end_s, spans[k], after, time, fade_s), 6), 0.0)


def _past(border_s: float, a: Span | None, b: Span | None, time: float, fade_s: float) -> float:
    """How far a time is past a border, 0 to 1: gradually if it lies between spans `a` and `b`, else at once."""
    if a is None or b is None or a.end_s != b.start_s:
        return float(time >= border_s)
    fade = min(fade_s, a.end_s - a.start_s, b.end_s - b.start_s)
    return min(max((time - border_s) / fade + 0.5, 0.0), 1.0) if fade > 0 else float(time >= border_s)
