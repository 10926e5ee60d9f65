"""Energies of maps against loops over the definitions, by hand, and by differences in float64."""

import math

import pytest
import torch
from torch import Tensor

from csd3d.attention import Tokens, Word
from csd3d.attention.energy import SIGMA, Contrast, Excite, comparable, nt_xent, smoothed
from csd3d.attention.groups import Group, groups_in


def sentence(words: str, length: int = 12) -> Tokens:
    return Tokens(tuple(Word(w, (i,)) for i, w in enumerate(words.split(), start=1)), length)


CUT = sentence("a red ball and a striped blue cube")
GROUPS = groups_in(CUT)


def maps(n: int = 2, *, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(n, 12, 5, 4, generator=rng, dtype=torch.float64).mul(3).softmax(1)


def test_columns_are_compared_as_published() -> None:
    """softmax(100 A) over tokens 1 to l - 2, place by place."""
    A = maps()
    got = comparable(A, [CUT, CUT], "all")
    for i in range(2):
        for a in range(5):
            for b in range(4):
                e = [math.exp(100 * float(A[i, j, a, b])) for j in range(1, 11)]
                for j in range(1, 11):
                    assert float(got[i, j, a, b]) == pytest.approx(e[j - 1] / sum(e), rel=1e-9)
                assert float(got[i, 0, a, b]) == float(got[i, 11, a, b]) == 0


def test_columns_of_words_share_what_padding_does_not_take() -> None:
    A, short = maps(), sentence("a ball")
    got = comparable(A, [CUT, short], "words")
    torch.testing.assert_close(got[0, 1:9], A[0, 1:9] / A[0, 1:9].sum(0))
    torch.testing.assert_close(got[1, 1:3], A[1, 1:3] / A[1, 1:3].sum(0))
    assert float(got[0, [0, 9, 10, 11]].abs().sum()) == float(got[1, [0, *range(3, 12)]].abs().sum()) == 0
    assert torch.equal(comparable(A[:1], [CUT], "words")[0], got[0]), "of each particle alone"


def test_smoothing_is_a_gaussian_of_three_places_mirrored_at_borders() -> None:
    A = maps()
    got = smoothed(A)
    weight = {(a, b): math.exp(-(a * a + b * b) / (2 * SIGMA**2)) for a in (-1, 0, 1) for b in (-1, 0, 1)}
    # as released: exp(-(x / (2 s))^2) with s = 0.5
    assert weight[0, 1] == pytest.approx(math.exp(-((1 / (2 * 0.5)) ** 2)))

    def mirrored(p: int, size: int) -> int:
        return -p if p < 0 else 2 * (size - 1) - p if p >= size else p

    for a in range(5):
        for b in range(4):
            expected = sum(
                w * A[1, 3, mirrored(a + da, 5), mirrored(b + db, 4)] for (da, db), w in weight.items()
            ) / sum(weight.values())
            torch.testing.assert_close(got[1, 3, a, b], expected)


def nt_xent_loops(vectors: list[list[float]], classes: list[int], temperature: float) -> float:
    def cos(u: list[float], v: list[float]) -> float:
        return sum(a * b for a, b in zip(u, v, strict=True)) / math.hypot(*u) / math.hypot(*v)

    terms = []
    for i, u in enumerate(vectors):
        for j, v in enumerate(vectors):
            if i != j and classes[i] == classes[j]:
                up = math.exp(cos(u, v) / temperature)
                others = [math.exp(cos(u, w) / temperature) for k, w in enumerate(vectors) if classes[k] != classes[i]]
                terms.append(-math.log(up / (up + sum(others))))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("temperature", [0.5, 0.07])
def test_nt_xent_is_its_definition(temperature: float) -> None:
    x = torch.randn(6, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    classes = [0, 1, 0, 2, 1, 0]  # 2 has no pair, but pushes
    got = nt_xent(x, torch.tensor(classes), temperature=temperature)
    assert float(got) == pytest.approx(nt_xent_loops(x.tolist(), classes, temperature), rel=1e-10)


def test_nt_xent_by_hand() -> None:
    """Two things with equal maps each, at right angles: cosine 1 within, 0 between."""
    x = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0], [0.0, 0.5]])
    got = nt_xent(x, torch.tensor([0, 0, 1, 1]), temperature=0.5)
    assert float(got) == pytest.approx(-math.log(math.exp(2) / (math.exp(2) + 2)), rel=1e-6)


@pytest.mark.parametrize("classes", [[0, 1, 2], [0, 0, 0], [4]])
def test_where_nothing_can_be_compared_there_is_neither_loss_nor_slope(classes: list[int]) -> None:
    x = torch.rand(len(classes), 3, requires_grad=True)
    loss = nt_xent(x, torch.tensor(classes), temperature=0.5)
    (slope,) = torch.autograd.grad(loss, x)
    assert float(loss.detach()) == 0
    assert torch.equal(slope, torch.zeros_like(x))


def test_conform_compares_tokens_now_and_before() -> None:
    now, before = maps(2)
    numbers, classes = [2, 3, 6, 7, 8], [0, 0, 1, 1, 1]
    both = torch.cat([now[numbers], before[numbers]]).flatten(1)
    expected = nt_xent_loops(both.tolist(), classes * 2, 0.5)
    assert float(Contrast()(now, before, GROUPS)) == pytest.approx(expected)
    alone = nt_xent_loops(now[numbers].flatten(1).tolist(), classes, 0.3)
    assert float(Contrast(0.3, previous=False)(now, before, GROUPS)) == pytest.approx(alone)
    assert float(Contrast(0.3)(now, None, GROUPS)) == pytest.approx(alone)
    pulls = Contrast(0.5, negatives=False)(now, None, GROUPS)
    cos = torch.nn.functional.cosine_similarity
    pairs = [(i, j) for i in range(5) for j in range(5) if i != j and classes[i] == classes[j]]
    mean = sum(cos(now[numbers[i]].flatten(), now[numbers[j]].flatten(), 0) for i, j in pairs) / len(pairs)
    torch.testing.assert_close(pulls, -mean / 0.5)
    single = groups_in(sentence("a bear and a dog"))
    assert float(Contrast()(now, None, single)) == 0, "no pair in the first step"
    assert float(Contrast()(now, before, single)) > 0


def test_excite_is_the_noun_that_peaks_least() -> None:
    now = maps(1)[0]
    peaks = [float(now[j].max()) for j in (3, 8)]
    assert float(Excite()(now, None, GROUPS)) == pytest.approx(1 - min(peaks))
    split = Group("t-shirt", (3, 4), (), (3, 4), "t-shirt")
    assert float(Excite()(now, None, [split])) == pytest.approx(1 - float(((now[3] + now[4]) / 2).max()))


@pytest.mark.parametrize("energy", [Contrast(), Contrast(previous=False), Contrast(negatives=False), Excite()])
@pytest.mark.parametrize("columns", ["all", "words"])
def test_slopes_are_those_of_differences(energy: Contrast | Excite, columns: str) -> None:
    before = smoothed(comparable(maps(1, seed=3), [CUT], "words"))[0]

    def value(A: Tensor) -> Tensor:
        return energy(smoothed(comparable(A, [CUT], columns))[0], before, GROUPS)  # pyright: ignore[reportArgumentType]

    assert torch.autograd.gradcheck(value, (maps(1).requires_grad_(),), atol=1e-7)


def test_a_temperature_is_above_nothing() -> None:
    with pytest.raises(ValueError, match=r"temperature: expected more than 0, got 0\.0"):
        Contrast(temperature=0.0)
