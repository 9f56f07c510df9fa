import torch

from training.sampling import IndexedEpoch, Share, epoch_order


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
