"""Windows of a clip in time: none crosses a cut or the border of a sentence, and frames come and go a few at a time."""

from collections.abc import Iterable, Iterator

import pytest
import torch
from torch import Tensor

from csd3d.engine.config import CsdConfig, Optimizer
from csd3d.engine.ddim import ddim_step
from csd3d.engine.residuals import Score
from csd3d.engine.sampling import Sampling, run_sampling
from csd3d.engine.schedule import Schedule
from csd3d.engine.types import Latents, Noised
from csd3d.priors.families.clips import ClipCodec, ClipEncoding, Remembered, fold
from video.particles import Batching
from video.plan import UNEDITED, plan_frames, spans_of
from video.sampled import SampledRows
from video.stretches import StretchDecoder, StretchEncoder, Stretches, starts, stretches_of
from video.window_particles import ClipWindows, SampledWindows, sampled_window_arrays
from video.windows import ByDifferenceInTime

CPU = torch.device("cpu")
FPS = 10


class WholeCodec(ClipCodec):
    """Loses nothing: a latent frame has the channels of its four frames."""

    def __init__(self) -> None:
        self.longest, self.channels = 0, 12

    @property
    def stride(self) -> int:
        return 4

    def begin(self) -> ClipEncoding:
        return ClipEncoding(self, [])

    def encode_next(self, rgb: Tensor, remembered: Remembered) -> Tensor:
        self.longest = max(self.longest, len(rgb))
        assert len(rgb) == (4 if remembered else 1), "the first frame alone, then four by four"
        remembered.append(None)
        return rgb.expand(4, -1, -1, -1).flatten(0, 1)[None]

    def decode_frames(self, z: Iterable[Tensor]) -> Iterator[Tensor]:
        for k, latent in enumerate(z):
            yield latent.unflatten(1, (4, 3))[0][: 4 if k else 1]


def stretches(prompt: str, frames: int, *, cuts: tuple[int, ...] = (), fade_s: float = 0.0) -> Stretches:
    plan = plan_frames(spans_of(prompt), [i / FPS for i in range(frames)], fade_s=fade_s)
    return stretches_of(plan, [sum(i >= cut for cut in cuts) for i in range(frames)], WholeCodec())


TIMED = "0-1.2s: make it day, 1.2-3s: make it night"


def test_cuts_and_sentences_part_a_clip() -> None:
    found = stretches(TIMED, 40, cuts=(7, 25))
    parts = [(s.frames.start, s.frames.stop, s.sentence) for s in found.all]
    assert parts == [(0, 7, 0), (7, 12, 0), (12, 25, 1), (25, 30, 1), (30, 40, UNEDITED)]
    assert [(s.rows.start, s.rows.stop) for s in found.all] == [(0, 3), (3, 5), (5, 9), (9, 11), (11, 15)]
    assert found.rows == 15
    windows = found.windows(3, 1)
    assert [(w.rows.start, w.rows.stop, w.sentence) for w in windows] == [
        (0, 3, 0), (3, 5, 0), (5, 8, 1), (6, 9, 1), (9, 11, 1),
    ]  # fmt: skip
    assert [(w.frames.start, w.frames.stop) for w in windows] == [(0, 7), (7, 12), (12, 21), (13, 25), (25, 30)]


def test_where_sentences_fade_frames_are_of_both() -> None:
    found = stretches(TIMED, 30, fade_s=0.6)
    assert [(s.frames, s.sentence) for s in found.all] == [(range(15), 0), (range(10, 30), 1)]


def test_one_shot_under_one_sentence_is_one_stretch() -> None:
    (only,) = stretches("make it day", 17).all
    assert (only.frames, only.rows) == (range(17), range(5))


@pytest.mark.parametrize("chunk", [1, 3, 16, 40])
def test_frames_come_back_from_chunks_of_any_length(chunk: int) -> None:
    found, rgb = stretches(TIMED, 40, cuts=(7, 25, 26), fade_s=0.6), torch.rand(40, 3, 2, 2)
    encoder, rows = StretchEncoder(found, CPU), list[Tensor]()
    for first in range(0, 40, chunk):
        frames = range(first, min(first + chunk, 40))
        z = encoder(frames, rgb[first : frames.stop])
        rows += [z] if len(z) else []
    z = torch.cat(rows)
    assert len(z) == found.rows
    whole = torch.cat([WholeCodec().encode_clip(rgb[s.frames.start : s.frames.stop]) for s in found.all])
    assert torch.equal(z, whole)
    assert isinstance(found.codec, WholeCodec)
    assert found.codec.longest == 4

    asked = list[slice]()
    decoder = StretchDecoder(found, lambda rows: asked.append(rows) or z[rows], CPU)
    count = len(found.plan.frames)
    back = torch.cat([decoder(slice(k, min(k + chunk, count))) for k in range(0, count, chunk)])
    assert torch.equal(back, rgb[list(found.plan.frames)])
    assert all(rows.stop - rows.start == 1 for rows in asked), "a latent frame at a time"
    assert sorted(rows.start for rows in asked) == list(range(found.rows)), "each once"


def test_masks_are_of_latent_frames_shown_by_their_middle() -> None:
    plan = stretches(TIMED, 40, cuts=(7,), fade_s=0.6).latent_plan()
    assert plan.frames[:4] == (0, 3, 6, 7)
    assert plan.prompt_index[:4] == (0, 0, 0, 0)
    assert plan.blend_weights[5] == ((2, 1.0),)
    assert [part for part, _ in plan.blend_weights[11]] == [4, 7], "a fade shows both"
    of_frames = stretches(TIMED, 40, fade_s=0.6).plan.blend_weights
    for own, latent in zip(of_frames, plan.blend_weights, strict=True):
        assert [weight for _, weight in own] == [weight for _, weight in latent], "by their weights"
    assert plan.prompt_index[-1] == UNEDITED
    pieces = stretches(TIMED, 40, cuts=(7,)).pieces(2)
    assert torch.cat(pieces).tolist() == list(range(sum(map(len, pieces))))
    assert max(map(len, pieces)) == 2


@pytest.mark.parametrize(
    ("length", "window", "overlap", "expected"),
    [(5, 3, 1, [0, 2]), (6, 3, 1, [0, 2, 3]), (2, 3, 1, [0]), (7, 3, 0, [0, 3, 4])],
)
def test_windows_cover_the_clip(length: int, window: int, overlap: int, expected: list[int]) -> None:
    assert starts(length, window, overlap).tolist() == expected


def test_windows_that_do_not_move_on_are_refused() -> None:
    with pytest.raises(ValueError, match="overlap: expected 0 to 2 latent frames, fewer than a window, got 3"):
        starts(5, 3, 3)


def test_directions_of_windows_are_averaged_where_they_overlap() -> None:
    made = ClipWindows(torch.zeros(6, 2, 1, 1), CsdConfig(), [range(3), range(2, 5)], batching=Batching(2))
    g = torch.stack([torch.full((6, 1, 1), 1.0), torch.full((6, 1, 1), 3.0)])
    made.draw(torch.Generator())
    made.move(torch.arange(2), g, lr=1.0)
    assert made.z[:][:, 0, 0, 0].tolist() == [-1, -1, -2, -3, -3, 0], "what is in no window stays"


def directions(z: Tensor, k: int) -> Tensor:
    return torch.sin(7 * z + k)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_batches_of_windows_move_a_clip_as_all_at_once_do(optimizer: Optimizer) -> None:
    config, s = CsdConfig(optimizer=optimizer), torch.randn(9, 2, 3, 3)
    windows = [range(k, k + 3) for k in (0, 2, 4, 6)]
    ends = list[Tensor]()
    for budget in (4, 1, 3):
        made, rng = ClipWindows(s, config, windows, batching=Batching(budget)), torch.Generator().manual_seed(budget)
        for epoch in range(3):
            for step in range(made.steps_per_epoch):
                batch = made.draw(rng)
                assert len(batch.z) <= budget
                g = torch.stack([directions(z, int(k)) for z, k in zip(batch.z, batch.index, strict=True)])
                made.move(batch.index, g, lr=0.1)
                if (epoch, step) == (1, 0):  # a run goes on, in the middle of an epoch too
                    state = {name: value.clone() for name, value in made.state_dict().items()}
                    made = ClipWindows(s, config, windows, batching=Batching(budget))
                    made.load_state_dict(state)
        ends.append(made.z[:])
    assert not torch.equal(ends[0], s)
    for other in ends[1:]:
        torch.testing.assert_close(other, ends[0], atol=1e-6, rtol=1e-6)
    with pytest.raises(ValueError, match=r"state: expected .* for 9 frames"):
        ClipWindows(s, config, windows, batching=Batching(1)).load_state_dict({"moves": torch.zeros(9)})


class Sinuous:
    """A `Score` whose noise of a window depends on all of it, and on its number."""

    schedule = Schedule.scaled_linear()

    def target(self, x: Noised) -> Tensor:
        """Under the sentence."""
        return torch.stack([torch.sin(z + z.mean() + int(k)) for z, k in zip(x.z_t, x.index, strict=True)])

    def source(self, x: Noised) -> Tensor:
        """Without it."""
        return torch.cos(x.s_t)


@pytest.mark.parametrize("start", ["noised", "inverted"])
def test_windows_are_sampled_by_the_mean_of_what_they_predict(start: str) -> None:
    score, csd = Sinuous(), CsdConfig(steps=2, t_max=1000, coupling="independent")
    sampling = Sampling(score, score if start == "inverted" else None, csd, rounds=1)
    s, e = torch.randn(2, 9, 2, 3, 3)
    windows = [range(k, k + 3) for k in (0, 2, 4)]

    def begun(budget: int, arrays: dict[str, Tensor]) -> SampledWindows:
        rows = SampledRows(s, sampling, arrays, noise=e if start == "noised" else None)
        return SampledWindows(rows, windows, sums=arrays["sum"], batching=Batching(budget))

    def noise(x: Tensor, *, inverts: bool) -> Tensor:
        """The formula: each window by itself, and the mean at every latent frame."""
        sums, count = torch.zeros(9, 2, 3, 3), torch.zeros(9, 1, 1, 1)
        for k, own in enumerate(windows):
            z = x[own.start : own.stop]
            sums[own.start : own.stop] += torch.cos(z) if inverts else torch.sin(z + z.mean() + k)
            count[own.start : own.stop] += 1
        return sums / count.clamp_min(1)

    ab = [score.schedule.alpha_bar(t) for t in (499, 999)]
    if start == "noised":
        x = score.schedule.add_noise(s, e, 999)
    else:
        x = s
        for before, after in ((1.0, ab[0]), (ab[0], ab[1])):
            guess = ddim_step(x, noise(x, inverts=True), before, after)
            x = ddim_step(x, noise(guess, inverts=True), before, after)
    for before, after in ((ab[1], ab[0]), (ab[0], 1.0)):
        x = ddim_step(x, noise(x, inverts=False), before, after)

    for budget in (3, 1):
        arrays = {name: s.clone() for name in sampled_window_arrays(sampling)} | {"sum": torch.zeros_like(s)}
        made = begun(budget, arrays)
        for step in range(len(sampling.transitions) * made.steps_per_epoch):
            if step == 2:  # a run goes on, in the middle of a transition too
                state, made = made.state_dict(), begun(budget, arrays)
                made.load_state_dict(state)
            next(run_sampling(made, sampling, start=step))
        torch.testing.assert_close(made.z[:7], x[:7], atol=1e-5, rtol=1e-4)
        assert torch.equal(made.z[7:], s[7:]), "what is in no window stays"
    with pytest.raises(ValueError, match=r"state: expected heard \(9,\), got \{'heard': \(4,\)\}"):
        begun(1, arrays).load_state_dict({"heard": torch.zeros(4)})


class Once:
    """A score whose target differs from the source at one place of one latent frame."""

    schedule = Schedule.scaled_linear()

    def __init__(self) -> None:
        self.asked = list[list[int]]()

    def source(self, x: Noised) -> Latents:
        return x.e

    def target(self, x: Noised) -> Latents:
        self.asked.append(x.index.tolist())
        window = x.e.unflatten(1, (2, -1)).clone()
        window[0, :, 1, 2, 3] += 1
        return window.flatten(1, 2)


def test_a_difference_is_found_where_and_when_it_is() -> None:
    score = Once()
    assert isinstance(score, Score)
    latents = torch.randn(3, 2, 4, 5)
    maps = ByDifferenceInTime(score).maps(latents, torch.tensor([4, 5, 6]), rng=torch.Generator())
    assert maps.shape == (3, 4, 5)
    assert maps.argmax() == maps[0].numel() + 2 * 5 + 3
    assert int((maps > 0).sum()) == 1
    assert set(map(tuple, score.asked)) == {(4,)}
    assert fold(latents).shape == (6, 4, 5)
