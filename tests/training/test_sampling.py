import pytest
import torch

from training.sampling import IndexedEpoch, Share, balanced_order, epoch_order


def test_epoch_order_is_a_permutation_of_seed_and_epoch() -> None:
    first = epoch_order(0, 0, 103, 10)
    assert first.shape == (10, 10)
    assert len(set(first.flatten().tolist())) == 100
    assert torch.equal(first, epoch_order(0, 0, 103, 10))
    assert not torch.equal(first, epoch_order(0, 1, 103, 10))
    assert not torch.equal(first, epoch_order(1, 0, 103, 10))
    assert epoch_order(0, 0, 5, 10).shape == (1, 5)


def test_shares_make_up_every_step_and_resume_anywhere() -> None:
    order = epoch_order(0, 0, 103, 10)
    whole = list(IndexedEpoch(order).starting_at(0))
    assert torch.equal(torch.stack(whole), order)
    parts = [IndexedEpoch(order, Share(rank, 2)) for rank in range(2)]
    assert [len(part) for part in parts] == [10, 10]
    for step, samples in enumerate(zip(*(part.starting_at(3) for part in parts), strict=True), 3):
        assert torch.equal(torch.cat(samples), whole[step])


def test_what_cannot_be_shared_equally_is_left_out() -> None:
    order = epoch_order(0, 0, 7, 7)
    parts = [torch.cat(list(IndexedEpoch(order, Share(rank, 2)).starting_at(0))) for rank in range(2)]
    assert [len(part) for part in parts] == [3, 3]
    assert len(set(torch.cat(parts).tolist())) == 6


CLASSES = torch.tensor([0] * 50 + [1] * 7 + [2] * 20 + [4] * 1)[
    torch.randperm(78, generator=torch.Generator().manual_seed(0))
]


def test_a_balanced_epoch_shows_every_class_as_often_as_the_largest() -> None:
    order = balanced_order(0, 0, CLASSES, 8)
    assert order.shape == (4 * 50 // 8, 8)
    assert torch.bincount(CLASSES[order.flatten()]).tolist() == [50, 50, 50, 0, 50]  # nobody is of class 3
    times = torch.bincount(order.flatten(), minlength=78)
    for k in (0, 1, 2, 4):
        of_class = times[k == CLASSES]
        assert of_class.max() - of_class.min() <= 1  # none comes again before all of its class came
    for step in order:  # every step is balanced too
        assert torch.bincount(CLASSES[step]).tolist() == [2, 2, 2, 0, 2]


def test_a_balanced_epoch_is_a_function_of_seed_and_epoch() -> None:
    order = balanced_order(3, 5, CLASSES, 8)
    assert torch.equal(order, balanced_order(3, 5, CLASSES, 8))
    assert not torch.equal(order, balanced_order(3, 6, CLASSES, 8))
    assert not torch.equal(order, balanced_order(4, 5, CLASSES, 8))


def test_the_mirror_row_of_a_balanced_step_is_of_any_class() -> None:
    """Mixing takes the mirror row: a fixed order of the classes would mix each with one other class for ever."""
    rows = CLASSES[balanced_order(0, 0, CLASSES, 8)]
    pairs = {tuple(pair) for pair in torch.stack([rows, rows.flip(1)], 2).flatten(0, 1).tolist()}
    assert len(pairs) == 16


@pytest.mark.parametrize(("epoch_samples", "shape"), [(60, (7, 8)), (6, (1, 6)), (10_000, (25, 8))])
def test_a_balanced_epoch_may_end_earlier(epoch_samples: int, shape: tuple[int, int]) -> None:
    first, second = (balanced_order(0, epoch, CLASSES, 8, epoch_samples) for epoch in (0, 1))
    assert first.shape == shape
    counts = torch.bincount(CLASSES[first.flatten()], minlength=5)[[0, 1, 2, 4]]
    assert counts.max() - counts.min() <= 1
    assert set(first[CLASSES[first] == 0].tolist()) != set(second[CLASSES[second] == 0].tolist()) or shape[0] == 25


def test_a_balanced_step_takes_all_there_is_where_that_is_little() -> None:
    assert balanced_order(0, 0, torch.tensor([1, 0, 1]), 64).shape == (1, 4)
