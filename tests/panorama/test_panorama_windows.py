"""The canvas moves by the average of its windows, everywhere alike, and goes on from a saved state bit for bit."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from panorama_toys import ToyPrior

from csd3d.engine.config import CsdConfig
from csd3d.engine.epochs import steps_in_epoch
from csd3d.engine.loop import Objective, Particles, Stateful, run
from csd3d.engine.types import Batch
from csd3d.priors.prior import Guidance, Prompts
from panorama.plane import make_plane
from panorama.regions import Everywhere, Plan, Sentence, Span
from panorama.windows import WindowParticles

PLAIN = Plan((Sentence("make it dark", Everywhere()),))


def windows_of(height, width, *, plan=PLAIN, **options: Any):
    given: dict[str, Any] = {"size_px": 32, "window_lat": 4, "stride_lat": 3} | options
    return make_plane(height, width, factor=8, **given).windows(plan)


def canvas(rows, columns, seed=0):
    return torch.randn(1, 4, rows, columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("wraps", [False, True])
@pytest.mark.parametrize("size", [32, 72])
def test_shares_sum_to_one_at_every_place(size, smooth, wraps):
    windows = windows_of(64, 300, size_px=size, smooth=smooth, wraps=wraps)
    total = torch.zeros(1, 1, size // 8, int(windows.columns.max()) + 1)
    windows.scatter_add(total, torch.ones(len(windows), 1, 4, 4))
    assert torch.allclose(total, torch.ones_like(total), atol=1e-5)


def test_what_a_window_shows_is_a_crop_and_adding_puts_it_back():
    windows = windows_of(40, 200, wraps=True)
    z = canvas(4, int(windows.columns.max()) + 1)
    seen = windows.gather(z)
    last = len(windows) - 1
    assert windows.columns[last].tolist() != sorted(windows.columns[last].tolist())  # it goes over the seam
    for i in (0, last):
        for r in range(4):
            for c in range(4):
                expected = z[0, :, windows.rows[i, r], windows.columns[i, c]]
                assert torch.equal(seen[i, :, r, c], expected)
    back = torch.zeros_like(z)
    windows.scatter_add(back, seen)
    assert torch.allclose(back, z, atol=1e-5)


def average_by_loops(windows, g, rows, columns, drawn, *, over_all):
    """sum a g / sum a, latent by latent."""
    out = torch.zeros(4, rows, columns)
    for y in range(rows):
        for x in range(columns):
            top, bottom = torch.zeros(4), 0.0
            for i in range(len(windows)):
                for r in range(windows.rows.shape[1]):
                    for c in range(windows.columns.shape[1]):
                        if windows.rows[i, r] == y and windows.columns[i, c] == x:
                            a = float(windows.share[i, r, c])
                            if i in drawn:
                                top += a * g[i, :, r, c]
                            bottom += a if over_all or i in drawn else 0.0
            out[:, y, x] = top / bottom if bottom else 0.0
    return out


@pytest.mark.parametrize("smooth", [False, True])
def test_one_epoch_moves_by_the_average_of_all_windows_however_few_a_step_holds(smooth):
    windows = windows_of(32, 110, smooth=smooth)
    s = canvas(4, 14)
    g = torch.randn(len(windows), 4, 4, 4, generator=torch.Generator().manual_seed(1))
    expected = s[0] - 0.3 * average_by_loops(windows, g, 4, 14, range(len(windows)), over_all=True)
    for budget in (1, 2, 100):
        particles = WindowParticles(s, windows, CsdConfig(), budget=budget)
        rng = torch.Generator().manual_seed(5)
        for step in range(steps_in_epoch(len(windows), budget)):
            assert torch.equal(particles.z, s), f"moved before the epoch ended, step {step}"
            batch = particles.draw(rng)
            assert len(batch.index) <= budget
            particles.move(batch.index, g[batch.index], lr=0.3)
        assert torch.allclose(particles.z[0], expected, atol=1e-5)


def test_random_draws_move_what_they_cover_by_their_own_average():
    windows = windows_of(32, 200, smooth=False, stride_lat=2)
    s = canvas(4, 25)
    g = torch.randn(len(windows), 4, 4, 4, generator=torch.Generator().manual_seed(1))
    particles = WindowParticles(s, windows, CsdConfig(), budget=3, draw="random")
    batch = particles.draw(torch.Generator().manual_seed(2))
    particles.move(batch.index, g[batch.index], lr=1.0)
    drawn = batch.index.tolist()
    assert len(drawn) == 3
    expected = s[0] - average_by_loops(windows, g, 4, 25, drawn, over_all=False)
    assert torch.allclose(particles.z[0], expected, atol=1e-5)
    assert bool((particles.z == s).any())


def test_an_epoch_has_every_window_once():
    windows = windows_of(64, 400, size_px=48)
    particles = WindowParticles(canvas(6, 38), windows, CsdConfig(), budget=5)
    rng, seen = torch.Generator().manual_seed(0), []
    for _ in range(steps_in_epoch(len(windows), 5)):
        batch = particles.draw(rng)
        seen += batch.index.tolist()
        particles.move(batch.index, torch.zeros_like(batch.z), lr=1.0)
    assert sorted(seen) == list(range(len(windows)))


def test_one_window_is_plain_csd_of_a_single_picture():
    """The same steps written out by hand."""
    windows = windows_of(32, 48, single=True)
    s, config = canvas(4, 6), CsdConfig(steps=7, lr=0.2)
    particles = WindowParticles(s, windows, config, budget=8)
    score = ToyPrior().score(Prompts("make it dark"), Guidance(1.0, 1.0))
    for _ in run(particles, Objective(score, config), rng=torch.Generator().manual_seed(3)):
        pass

    class Alone:
        steps_per_epoch = 1

        def __init__(self):
            self.z = s.clone()

        def draw(self, rng):
            torch.randperm(1, generator=rng)
            return Batch(self.z, s, torch.zeros(1, dtype=torch.int64))

        def move(self, index, g, *, lr):
            self.z = self.z - lr * g

    alone = Alone()
    for _ in run(alone, Objective(score, config), rng=torch.Generator().manual_seed(3)):
        pass
    assert torch.allclose(particles.z, alone.z, atol=1e-6)


def test_sentences_share_a_window_by_their_regions():
    spans = (Sentence("a", Everywhere()), Sentence("b", Span(0.5, 1.0, soft=0.1)))
    windows = windows_of(32, 320, plan=Plan(spans))
    total = torch.zeros(1, 2, 4, 40)
    windows.scatter_add(total, torch.nn.functional.one_hot(windows.prompt, 2)[:, :, None, None].float())
    assert torch.allclose(total.sum(1), torch.ones(1, 4, 40), atol=1e-5)
    first = total[0, 0, 0]
    assert torch.allclose(first[:15], torch.ones(15), atol=1e-5)
    assert torch.allclose(first[25:], torch.zeros(15), atol=1e-5)
    assert bool((first.diff() <= 1e-5).all())
    assert first[19] + first[20] == pytest.approx(1.0, abs=1e-4)
    only_left = windows.prompt[windows.columns.amax(1) < 15]
    assert only_left.tolist() == [0] * len(only_left)


def test_adam_is_one_step_of_torch_an_epoch():
    windows = windows_of(32, 110)
    s, config = canvas(4, 14), CsdConfig(optimizer="adam")
    particles = WindowParticles(s, windows, config, budget=2)
    free = s.clone().requires_grad_()
    oracle = torch.optim.Adam([free], lr=0.1)
    rng = torch.Generator().manual_seed(0)
    for k in range(3):
        g = torch.randn(len(windows), 4, 4, 4, generator=torch.Generator().manual_seed(k))
        for _ in range(steps_in_epoch(len(windows), 2)):
            batch = particles.draw(rng)
            particles.move(batch.index, g[batch.index], lr=0.1)
        free.grad = average_by_loops(windows, g, 4, 14, range(len(windows)), over_all=True)[None]
        oracle.step()
    assert torch.allclose(particles.z, free, atol=1e-4)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("draw", ["rounds", "random"])
def test_state_goes_on_bit_for_bit(optimizer, draw):
    config = CsdConfig(optimizer=optimizer, steps=17, lr=0.1)
    score = ToyPrior().score(Prompts("make it dark"), Guidance(1.0, 1.0))

    def fresh():
        particles = WindowParticles(
            canvas(4, 25), windows_of(32, 200), config, budget=3, draw=draw, settle=lambda z: 0.9 * z, settle_every=2
        )
        return particles, torch.Generator().manual_seed(7)

    whole, rng = fresh()
    for _ in run(whole, Objective(score, config), rng=rng):
        pass
    for stop in (1, 10, 11):
        first, rng = fresh()
        for _ in run(first, Objective(score, replace(config, steps=stop)), rng=rng):
            pass
        state = {k: v.clone() for k, v in first.state_dict().items()}
        later, _ = fresh()
        later.load_state_dict(state)
        other = torch.Generator()
        other.set_state(rng.get_state())
        for _ in run(later, Objective(score, config), rng=other, start=stop):
            pass
        assert torch.equal(later.z, whole.z)


def test_satisfies_the_protocol_and_refuses_a_foreign_state():
    sgd = WindowParticles(canvas(4, 14), windows_of(32, 110), CsdConfig(), budget=2)
    assert isinstance(sgd, Particles)
    assert isinstance(sgd, Stateful)
    longer = WindowParticles(canvas(4, 25), windows_of(32, 200), CsdConfig(), budget=2)
    for state in (longer.state_dict(), {}, sgd.state_dict() | {"cover": torch.zeros(1)}):
        with pytest.raises(ValueError, match="state: expected"):
            sgd.load_state_dict(state)


def test_the_mask_holds_latents_still():
    mask = torch.zeros(1, 1, 4, 14)
    mask[..., 7:] = 1
    s = canvas(4, 14)
    particles = WindowParticles(s, windows_of(32, 110), CsdConfig(), budget=100, mask=mask, settle=lambda z: z + 1)
    batch = particles.draw(torch.Generator().manual_seed(0))
    particles.move(batch.index, torch.ones_like(batch.z), lr=0.5)
    assert torch.equal(particles.z[..., :7], s[..., :7])
    assert torch.allclose(particles.z[..., 7:], s[..., 7:] - 0.5, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_grey_mask_lets_move_by_its_share_whatever_the_optimiser(optimizer):
    mask = torch.linspace(0, 1, 14).expand(1, 1, 4, 14)
    s, config = canvas(4, 14), CsdConfig(optimizer=optimizer)
    ends = []
    for held in (None, mask):
        particles = WindowParticles(s, windows_of(32, 110), config, budget=100, mask=held)
        batch = particles.draw(torch.Generator().manual_seed(0))
        particles.move(batch.index, torch.ones_like(batch.z), lr=0.5)
        ends.append(particles.z - s)
    assert ends[0].abs().min() > 0.1
    assert torch.allclose(ends[1], mask * ends[0], atol=1e-5)


def test_what_random_windows_do_not_cover_stays_under_adam_too():
    s, config, rng = canvas(4, 40), CsdConfig(optimizer="adam"), torch.Generator().manual_seed(0)
    particles = WindowParticles(s, windows_of(32, 320), config, budget=1, draw="random")
    for _ in range(4):
        before, batch = particles.z.clone(), particles.draw(rng)
        particles.move(batch.index, torch.ones_like(batch.z), lr=0.5)
        columns = torch.zeros(40, dtype=torch.bool)
        columns[windows_of(32, 320).select(batch.index).columns.flatten()] = True
        moved = (particles.z - before).abs().amax((0, 1, 2)) > 0
        assert not columns.all()
        assert torch.equal(moved, columns)
