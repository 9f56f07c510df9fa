"""Bound memory, the pipeline around it and the fixed sizes are the same on a CPU, where these tests run."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fer_app import bound_batches
from fer_app.bound_batches import BoundBatches
from fer_app.classifier import OnnxClassifier
from fer_app.errors import InputError, ModelError
from fer_app.model_store import resolve_model
from fer_app.session import GpuOptions, open_session

MOST = 4


@pytest.fixture(scope="module")
def session():
    """The bundled classifier, where a batch of another size may well round differently."""
    return open_session(resolve_model(), device="cpu", threads=1)


@pytest.fixture(scope="module")
def images(session):
    return np.random.default_rng(0).standard_normal((13, *session.input_shapes[0][1:])).astype(np.float32)


def written(images):
    def write(rows, place):
        place[...] = images[rows]

    return write


def plain(session, images, size=MOST):
    """What `Session.run` gives for batches of at most `size`."""
    parts = [session.run({"images": images[start : start + size]})[0] for start in range(0, len(images), size)]
    return np.concatenate([np.zeros((0, 8), np.float32), *parts])


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 8, 13])
def test_bound_memory_gives_the_same_bits(session, images, count):
    bound = BoundBatches(session, MOST)
    for _ in range(2):  # again: in memory that has been used
        results = bound.run(count, written(images[:count]))
        np.testing.assert_array_equal(results, plain(session, images[:count]))
        assert results.dtype == np.float32


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 6, 7, 13])
def test_fixed_sizes_give_the_bits_of_a_batch_that_is_filled_up(session, images, count):
    bound = BoundBatches(session, MOST, graphs=True)
    bound.run(len(images), written(images))
    results = bound.run(count, written(images[:count]))
    filled = {1: 1, 2: 2, 3: 4, 0: 0}[count % MOST]
    last = count - count % MOST
    expected = plain(session, images[:last])
    if filled:
        padded = np.concatenate([images[last:count], np.zeros((filled - count % MOST, *images.shape[1:]), np.float32)])
        expected = np.concatenate([expected, plain(session, padded)[: count % MOST]])
    np.testing.assert_array_equal(results, expected)


def test_sizes_are_powers_of_two_and_the_largest(session, images):
    bound = BoundBatches(session, 5, graphs=True)
    for count in (1, 2, 3, 4, 5):
        bound.run(count, written(images[:count]))
    assert sorted(bound._resident) == [1, 2, 4, 5]


def test_the_next_batch_is_written_while_others_run(session, images, monkeypatch):
    """Held up on the device, as many batches are taken as there are places for, and not one more."""
    bound = BoundBatches(session, MOST)
    free, all_begun = threading.Event(), threading.Event()
    run, begun = bound._run, []

    def held_up(slot, results):
        assert free.wait(30)
        run(slot, results)

    def write(rows, place):
        place[...] = images[rows]
        begun.append(rows.start)
        if len(begun) == len(bound._slots):
            all_begun.set()

    monkeypatch.setattr(bound, "_run", held_up)
    with ThreadPoolExecutor(1) as helper:
        results = helper.submit(bound.run, 13, write)
        assert all_begun.wait(30)
        assert begun == [0, 4, 8]
        free.set()
        np.testing.assert_array_equal(results.result(30), plain(session, images))


def test_several_threads_take_turns(session, images):
    bound = BoundBatches(session, MOST)
    portions = [images[i : i + 7] for i in range(6)]
    with ThreadPoolExecutor(6) as threads:
        results = list(threads.map(lambda portion: bound.run(len(portion), written(portion)), portions))
    for portion, result in zip(portions, results, strict=True):
        np.testing.assert_array_equal(result, plain(session, portion))


@pytest.mark.parametrize("graphs", [False, True])
def test_after_an_error_it_goes_on(session, images, graphs, monkeypatch):
    bound = BoundBatches(session, MOST, graphs=graphs)

    def write(rows, place):
        if rows.start == 8:
            raise InputError("no such crop")
        place[...] = images[rows]

    with pytest.raises(InputError, match="no such crop"):
        bound.run(13, write)
    run, broken = session.inference.run_with_iobinding, threading.Event()

    def failing(*arguments):
        if broken.is_set():
            raise RuntimeError("Error in execution: CUDA error\nand more")
        run(*arguments)

    monkeypatch.setattr(session.inference, "run_with_iobinding", failing)
    broken.set()
    with pytest.raises(ModelError, match=r"failed on cpu: Error in execution: CUDA error$"):
        bound.run(3, written(images[:3]))
    broken.clear()
    np.testing.assert_array_equal(bound.run(4, written(images[:4])), plain(session, images[:4]))


def test_a_wrong_shape_is_a_model_error(session, images):
    bound = BoundBatches(session, MOST)
    bound._slots = [bound_batches._Slot(slot.inputs[..., :-1].copy(), slot.outputs) for slot in bound._slots]
    with pytest.raises(ModelError, match="failed on cpu"):
        bound.run(2, lambda rows, place: None)


@pytest.mark.parametrize("graphs", [False, True])
def test_a_classifier_with_bound_memory_is_the_same_classifier(tiny_model, graphs):
    classifier, plain_one = (OnnxClassifier(tiny_model, device="cpu", batch_size=4) for _ in range(2))
    assert classifier._bound is None, "on a CPU there is nothing to gain"
    classifier._bound = BoundBatches(classifier._session, 4, graphs=graphs)
    generator = np.random.default_rng(1)
    for count in (0, 1, 4, 9):
        crops = generator.integers(0, 256, (count, 16, 16, 3), np.uint8)
        np.testing.assert_array_equal(classifier.logits(crops), plain_one.logits(crops))
    mixed = [generator.integers(0, 256, (size, size + 3, 3), np.uint8) for size in (4, 16, 33, 50, 7)]
    np.testing.assert_array_equal(classifier.probs(mixed), plain_one.probs(mixed))
    with pytest.raises(InputError, match="uint8"):
        classifier.logits(np.zeros((2, 16, 16, 3), np.float32))


@pytest.mark.gpu
@pytest.mark.parametrize("graphs", [False, True])
def test_on_cuda(images, session, graphs):
    on_cuda = OnnxClassifier(resolve_model(), device="cuda", batch_size=MOST, gpu=GpuOptions(2048, graphs))
    on_cpu = OnnxClassifier(resolve_model(), device="cpu", batch_size=MOST)
    generator = np.random.default_rng(2)
    for count in (1, 2, 3, 4, 13, 13, 3):
        crops = generator.integers(0, 256, (count, 48, 48, 3), np.uint8)
        np.testing.assert_allclose(on_cuda.logits(crops), on_cpu.logits(crops), atol=1e-3)
