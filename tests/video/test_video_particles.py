"""Every frame is moved once an epoch, by its own rule, and comes back from a saved state bit for bit."""

import math
from dataclasses import replace

import pytest
import torch
from video_toys import ToyPrior

from csd3d.engine.config import CsdConfig
from csd3d.engine.loop import Objective, Particles, Stateful, draw_noise, draw_timestep, run
from csd3d.priors.prior import Guidance, Prompts
from video.particles import Batching, FrameParticles, partition


@pytest.mark.parametrize("draw", ["window", "stratified"])
@pytest.mark.parametrize(("frames", "budget"), [(1, 1), (5, 8), (8, 8), (9, 8), (10, 3), (25, 24), (7, 1), (100, 24)])
def test_an_epoch_moves_every_frame_once_within_the_budget(draw, frames, budget):
    rng = torch.Generator().manual_seed(1)
    for _ in range(5):
        groups = partition(frames, budget, draw, rng)
        assert len(groups) == math.ceil(frames / budget)
        assert sorted(torch.cat(groups).tolist()) == list(range(frames))
        assert all(1 <= len(g) <= budget for g in groups)
        assert all(g.tolist() == sorted(g.tolist()) for g in groups)


def test_windows_are_neighbours_around_the_clip_with_moving_borders():
    rng = torch.Generator().manual_seed(2)
    starts = set()
    for _ in range(30):
        groups = partition(40, 10, "window", rng)
        for group in groups:
            gaps = [(b - a) % 40 for a, b in zip(group.tolist(), group.roll(-1).tolist(), strict=True)]
            assert sorted(gaps)[:-1] == [1] * (len(group) - 1)
        starts.add(int(groups[0][0]))
    assert len(starts) > 10


def test_strata_spread_each_group_over_the_clip():
    groups = partition(100, 10, "stratified", torch.Generator().manual_seed(3))
    for group in groups:
        assert torch.equal(group // 10, torch.arange(10))
    again = partition(100, 10, "stratified", torch.Generator().manual_seed(4))
    assert [g.tolist() for g in groups] != [g.tolist() for g in again]


def test_windows_see_anchors_from_the_whole_clip_and_move_only_themselves():
    batching, rng = Batching(8, "window", anchors=3), torch.Generator().manual_seed(1)
    batches = batching.partition(60, rng)
    assert len(batches) == batching.steps(60) == 12
    assert sorted(torch.cat(batches).tolist()) == list(range(60))
    for moved in batches:
        seen = batching.coupled(moved, 60)
        assert len(seen) == len(moved) + 3
        assert seen.tolist() == sorted(set(seen.tolist()))
        others = sorted(set(seen.tolist()) - set(moved.tolist()))
        assert others[-1] - others[0] > 40
    assert batching.steps(8) == 1
    assert torch.equal(batching.coupled(torch.arange(8), 8), torch.arange(8))
    assert Batching(8, "stratified", anchors=3).steps(60) == 8


def test_anchors_are_not_moved():
    s = latents(20)
    particles = FrameParticles(s, CsdConfig(), batching=Batching(6, "window", anchors=2))
    batch = particles.draw(torch.Generator().manual_seed(0))
    particles.move(batch.index, torch.ones_like(batch.z), lr=1.0)
    moved = (particles.z[:] != s).flatten(1).any(1)
    assert (int(moved.sum()), len(batch.index)) == (4, 6)
    assert set(moved.nonzero().flatten().tolist()) < set(batch.index.tolist())


def test_groups_never_share_a_step_and_outsiders_stay():
    groups = ((0, 2, 4, 6, 8), (1, 3, 5))
    batching, rng = Batching(3, groups=groups), torch.Generator().manual_seed(0)
    for _ in range(3):
        batches = batching.partition(10, rng)
        assert len(batches) == batching.steps(10) == 3
        assert sorted(torch.cat(batches).tolist()) == [0, 1, 2, 3, 4, 5, 6, 8]
        assert all(any(set(moved.tolist()) <= set(group) for group in groups) for moved in batches)


def latents(frames, seed=0):
    return torch.randn(frames, 4, 3, 5, generator=torch.Generator().manual_seed(seed))


def test_satisfies_the_protocol_and_starts_at_the_source():
    s = latents(3)
    particles = FrameParticles(s, CsdConfig(), batching=Batching(8))
    assert isinstance(particles, Particles)
    assert isinstance(particles, Stateful)
    assert torch.equal(particles.z[:], s)
    particles.z[:] = particles.z[:] + 1
    assert torch.equal(particles.s[:], latents(3))


def test_memory_layout_of_the_sources_does_not_matter():
    """A loaded state is contiguous; kernels round differently for other layouts."""
    wild = latents(6).to(memory_format=torch.channels_last)
    particles = FrameParticles(wild, CsdConfig(), batching=Batching(4))
    batch = particles.draw(torch.Generator().manual_seed(0))
    assert all(x.is_contiguous() for x in (particles.s[:], particles.z[:], batch.s, batch.z))
    particles.load_state_dict({**particles.state_dict(), "z": wild})
    assert particles.z[:].is_contiguous()


def test_sgd_is_plain_and_touches_only_its_group():
    s = latents(9)
    particles = FrameParticles(s, CsdConfig(), batching=Batching(3))
    batch = particles.draw(torch.Generator().manual_seed(0))
    g = torch.randn(batch.z.shape, generator=torch.Generator().manual_seed(5))
    particles.move(batch.index, g, lr=0.25)
    expected = s.clone()
    expected[batch.index] = s[batch.index] - 0.25 * g
    assert torch.equal(particles.z[:], expected)


def test_adam_equals_a_torch_optimiser_for_every_frame_alone():
    s, config = latents(5), CsdConfig(optimizer="adam")
    particles = FrameParticles(s, config, batching=Batching(2))
    frames = [s[i].clone().requires_grad_() for i in range(5)]
    oracles = [torch.optim.Adam([f], lr=0.1) for f in frames]
    rng, noise = torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)
    for step in range(9):
        batch = particles.draw(rng)
        g = torch.randn(batch.z.shape, generator=noise)
        lr = 0.1 * 0.9**step
        particles.move(batch.index, g, lr=lr)
        for i, gradient in zip(batch.index.tolist(), g, strict=True):
            frames[i].grad = gradient
            oracles[i].param_groups[0]["lr"] = lr
            oracles[i].step()
    assert torch.allclose(particles.z[:], torch.stack([f.detach() for f in frames]), atol=1e-6)


def test_all_steps_of_an_epoch_share_a_timestep():
    config = CsdConfig(steps=12)
    score = ToyPrior().score(Prompts("make it dark"), Guidance(1.0, 1.0))
    particles = FrameParticles(latents(10), config, batching=Batching(4))
    t = [info.t for info in run(particles, Objective(score, config), rng=torch.Generator().manual_seed(0))]
    epochs = [set(t[k : k + 3]) for k in range(0, 12, 3)]
    assert all(len(of_epoch) == 1 for of_epoch in epochs)
    assert len(set().union(*epochs)) == 4


def test_an_epoch_of_one_step_draws_as_a_step_alone_does():
    config = CsdConfig(steps=5)
    score = ToyPrior().score(Prompts("make it dark"), Guidance(1.0, 1.0))
    particles = FrameParticles(latents(4), config, batching=Batching(4))
    t = [info.t for info in run(particles, Objective(score, config), rng=torch.Generator().manual_seed(0))]
    rng, expected = torch.Generator().manual_seed(0), []
    for _ in range(5):
        expected.append(draw_timestep(rng, config))
        draw_noise(latents(4), rng, config)
    assert t == expected


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("draw", ["window", "stratified"])
def test_state_goes_on_bit_for_bit(optimizer, draw):
    config = CsdConfig(optimizer=optimizer, steps=23, lr=0.1)
    score = ToyPrior().score(Prompts("make it dark"), Guidance(1.0, 1.0))

    def fresh():
        return FrameParticles(latents(11), config, batching=Batching(4, draw)), torch.Generator().manual_seed(7)

    whole, rng = fresh()
    for _ in run(whole, Objective(score, config), rng=rng):
        pass
    first, rng = fresh()
    for _ in run(first, Objective(score, replace(config, steps=13)), rng=rng):
        pass
    state = {k: v.clone() for k, v in first.state_dict().items()}
    assert all(isinstance(v, torch.Tensor) for v in state.values())
    later, _ = fresh()
    later.load_state_dict(state)
    other = torch.Generator()
    other.set_state(rng.get_state())
    for _ in run(later, Objective(score, config), rng=other, start=13):
        pass
    assert torch.equal(later.z[:], whole.z[:])
    assert not torch.equal(later.z[:], first.z[:])


def test_state_of_another_clip_or_optimiser_is_refused():
    sgd = FrameParticles(latents(3), CsdConfig(), batching=Batching(2))
    adam = FrameParticles(latents(3), CsdConfig(optimizer="adam"), batching=Batching(2))
    longer = FrameParticles(latents(4), CsdConfig(), batching=Batching(2))
    for state in (adam.state_dict(), longer.state_dict(), {}):
        with pytest.raises(ValueError, match="state: expected"):
            sgd.load_state_dict(state)
