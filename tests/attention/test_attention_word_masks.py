"""Maps of words from attention that is known exactly: what is read, refined and cut."""

from contextlib import contextmanager

import pytest
import torch

from csd3d.attention import Rows, Site, Tokens, Word
from csd3d.attention.masks import levels
from csd3d.attention.word_masks import EDGE, SHARE, sites_of_words, word_in, word_map
from csd3d.engine.schedule import Schedule

SITES = (
    Site("fine.self", "self", "down", 0, 0, heads=2),
    Site("a.self", "self", "down", 1, 1, heads=2),
    Site("a.cross", "cross", "down", 0, 1, heads=2),
    Site("b.cross", "cross", "up", 1, 1, heads=2),
    Site("c.self", "self", "mid", 2, 2, heads=2),
    Site("c.cross", "cross", "mid", 2, 2, heads=2),
)
TOKENS = Tokens((Word("the", (1,)), Word("ball", (2, 3))), 6)
H, W = 6, 8


class Known:
    """A network whose probabilities are functions of the noisy latents alone."""

    schedule = Schedule(torch.linspace(0.999, 0.01, 1000))
    sites = SITES

    @property
    def source_branch(self):
        return {"text": "text"}

    @property
    def wordless_branch(self):
        return {"text": "null"}

    def __init__(self):
        self.controls, self.seen = (), []

    def read(self, role):
        return (TOKENS,)

    @contextmanager
    def controlled(self, controls):
        self.controls = controls
        yield
        self.controls = ()

    def probabilities(self, site, s_t):
        """[n heads p m] from the latents of each particle."""
        p = site.places((H, W))
        m = 6 if site.kind == "cross" else p
        phase = torch.arange(2 * p * m).reshape(1, 2, p, m) * (1.0 + site.order)
        return (3 * torch.sin(phase + 7 * s_t.mean((1, 2, 3)).reshape(-1, 1, 1, 1))).softmax(-1)

    def target(self, x):
        self.seen.append(x.t)
        particles = tuple(x.index.tolist())
        rows = Rows("target", ("text",) * len(particles), particles, (TOKENS,) * len(particles), 0.1, (H, W))
        for control in self.controls:
            for site in control.sites:
                control.weigh(site, rows, self.probabilities(site, x.s_t))
        return x.z_t

    source = target

    def target_branch(self, x, branch):
        raise NotImplementedError

    def noise_in(self, output, x):
        raise NotImplementedError

    def output_of(self, e, x):
        raise NotImplementedError

    def encode(self, sentences):
        raise NotImplementedError


def latents(n=3):
    return torch.randn(n, 4, H, W, generator=torch.Generator().manual_seed(0))


def rng():
    return torch.Generator().manual_seed(5)


def test_a_map_is_what_places_like_a_place_look_at_by_loops():
    score, s, noises = Known(), latents(), 2
    index, places = torch.tensor([4, 0, 2]), [(2, 3), (1,), (2,)]
    got = word_map(score, s, index, places, rng=rng(), noises=noises)
    draws, t = rng(), int(SHARE * 1000)
    for i in range(3):
        expected = torch.zeros(H, W)
        for e in torch.randn(noises, 4, H, W, generator=draws):
            s_t = score.schedule.add_noise(s[i : i + 1], e[None], t)
            A = torch.stack([score.probabilities(site, s_t)[0].mean(0) for site in (SITES[2], SITES[3])]).mean(0)
            S = score.probabilities(SITES[1], s_t)[0].mean(0)
            word = [sum(float(A[p, j]) for j in places[i]) for p in range(12)]
            refined = [sum(float(S[p, q]) * word[q] for q in range(12)) for p in range(12)]
            expected += (
                torch.nn.functional.interpolate(torch.tensor(refined).reshape(1, 1, 3, 4), (H, W), mode="bilinear")[
                    0, 0
                ]
                / noises
            )
        assert torch.allclose(got[i], expected, atol=1e-6)
    assert set(score.seen) == {t}


def test_chunks_change_no_map():
    s, score = latents(5), Known()
    whole, again = word_map(score, s, torch.arange(5), [(2,)] * 5, rng=rng()), rng()
    parts = [word_map(score, s[k], k, [(2,)] * len(k), rng=again) for k in torch.arange(5).split(2)]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-6)


def test_the_finest_level_that_has_both_kinds_and_is_not_large_is_read():
    assert {site.level for site in sites_of_words(SITES, (H, W))} == {1}
    assert {site.name for site in sites_of_words(SITES, (H, W))} == {"a.self", "a.cross", "b.cross"}
    assert {site.level for site in sites_of_words(SITES, (64, 96))} == {2}  # level 1 would be 32 x 48 places
    assert sites_of_words(SITES, (512, 512)) == ()
    assert sites_of_words(SITES[:2], (H, W)) == ()


def test_a_network_whose_maps_are_all_large_is_refused():
    class Large(Known):
        sites = SITES[:2]

    with pytest.raises(ValueError, match="mask-words: expected a prior whose attention has maps of at most 24x24"):
        word_map(Large(), latents(), torch.arange(3), [(2,)] * 3, rng=rng())


def test_the_mask_is_what_is_above_a_share_of_the_way_from_lowest_to_highest():
    maps = torch.full((2, 8, 10), 0.2)
    maps[0, 3, 4], maps[1, 0, 9] = 1.0, 0.2 + 1.01 * EDGE * 0.8
    maps[1, 5, 5] = 0.2 + 0.99 * EDGE * 0.8
    found = word_in(maps)
    assert found.extent == "part"
    assert (levels(found.mask) > 0.5).nonzero().tolist() == [[0, 3, 4], [1, 0, 9]]
    shown = torch.ones(2, 8, 10, dtype=torch.bool)
    shown[0] = False  # another sentence holds there
    assert word_in(maps, shown).mask[0].max() == 0
    assert levels(word_in(maps, shown).mask)[1].sum() > 1
    assert word_in(torch.ones(2, 8, 10)).extent == "nowhere"
