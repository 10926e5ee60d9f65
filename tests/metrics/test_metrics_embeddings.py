"""Cosines of embeddings, on vectors whose angles are known."""

import pytest
import torch

from csd3d.metrics import (
    consecutive_similarity,
    direction_consistency,
    directional_similarity,
    frame_accuracy,
    pairwise_similarity,
    text_alignment,
)

X, Y, Z = torch.eye(3)


def test_text_alignment_is_the_cosine_whatever_the_length() -> None:
    found = text_alignment(torch.stack([2 * X, X + Y, -X]), 5 * X)
    torch.testing.assert_close(found, torch.tensor([1, 0.5**0.5, -1]))


def test_direction_asks_how_the_picture_changed_not_what_it_shows() -> None:
    frames, sources = torch.stack([3 * Y, X, X]), torch.stack([X, Y, X])
    found = directional_similarity(frames, sources, Y, X)
    torch.testing.assert_close(found[:2], torch.tensor([1.0, -1.0]))
    assert found[2].isnan()  # nothing changed
    assert directional_similarity(frames, sources, Y, Y).isnan().all()  # nor was anything asked for


def test_neighbours_and_pairs() -> None:
    frames = torch.stack([X, X, Y])
    torch.testing.assert_close(consecutive_similarity(frames), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(pairwise_similarity(frames), torch.tensor([0.5, 0.5, 0.0]))
    assert consecutive_similarity(frames[:1]).tolist() == []
    assert pairwise_similarity(frames[:1]).isnan().all()


def test_pairs_are_what_loops_say() -> None:
    frames = torch.randn(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cosine = torch.cosine_similarity(frames[:, None], frames[None], dim=2)
    for i, value in enumerate(pairwise_similarity(frames).tolist()):
        assert value == pytest.approx(float(sum(cosine[i, j] for j in range(5) if j != i)) / 4)


def test_direction_consistency_compares_how_views_differ() -> None:
    sources = torch.stack([X, Y, X])
    found = direction_consistency(torch.stack([X, Y, Y]), sources)
    assert float(found[0]) == pytest.approx(1)
    assert found[1].isnan()


def test_frame_accuracy_counts_a_tie() -> None:
    assert frame_accuracy(torch.stack([X, Y, Z]), X, Y).tolist() == [1, 0, 1]
