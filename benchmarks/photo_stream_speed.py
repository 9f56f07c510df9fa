"""Streaming of general photos: the loader alone, and pre-training steps from a stream and from memory, in turns.

The model is ViT-Tiny/8 at 64 px with MAE's decoder at 192 wide and 2 deep, in bf16. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from lightning.fabric import Fabric

from training.allocator import keep_freed_memory
from training.data.general import load_images
from training.data.locate import locate
from training.data.photo_plan import plan_photos
from training.data.photo_stream import PhotoStream
from training.loop import LoopSettings, make_optimizer, prepare_model
from training.mae_pretraining import MaePretraining
from training.recipe_files import load_recipe
from training.sampling import Share

SIDE_PX = 64
CHANGES = (
    *("model.size=tiny", f"model.img_size={SIDE_PX}", "model.patch_size=8", "pretrain.decoder_embed_dim=192"),
    *("pretrain.decoder_depth=2", "pretrain.decoder_num_heads=3"),
)


def rss_mb() -> float:
    """Memory of the process that is not swapped out."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def read_an_epoch(stream: PhotoStream, batch_size: int) -> None:
    started, cpu, done, shown = time.perf_counter(), time.process_time(), 0, 0
    total = len(stream)
    for batch in stream.start_epoch(0, 0, batch_size, Share(), 29).starting_at(0):
        done += len(batch)
        if done * 4 >= total * (shown + 1):
            shown += 1
            rate, cpu_rate = done / (time.perf_counter() - started), done / (time.process_time() - cpu)
            print(f"loader alone: {done} read, {rate:.0f}/s, {cpu_rate:.0f} per CPU second, RSS {rss_mb():.0f} MB")


def training_steps(objective: MaePretraining, settings: LoopSettings, fabric: Fabric) -> Iterator[float]:
    """Take steps for ever, giving the seconds of each."""
    prepare_model(objective.model, settings, fabric.device)
    model, optimizer = fabric.setup(objective.model, make_optimizer(objective.param_groups(), settings))
    rng, epoch = np.random.default_rng(0), 0
    while True:
        batches = iter(objective.start_epoch(epoch, settings.batch_size, Share()).starting_at(0))
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                break
            with fabric.autocast():
                losses = objective.losses(model, batch, rng)
            fabric.backward(losses["loss"])
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses["loss"].item()
            yield time.perf_counter() - started
        epoch += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders, shards or patterns")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60, help="of training steps, of both together")
    arguments = parser.parse_args()
    keep_freed_memory()
    photos = locate(arguments.data).need_photos()
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "photos.json"
        plan = plan_photos(photos, record, picture_bytes=3 * SIDE_PX**2, stream=True)
    assert plan.shards is not None
    print(*plan.lines, f"load {os.getloadavg()[0]:.1f}, RSS {rss_mb():.0f} MB", sep="\n")
    stream = PhotoStream(plan.shards, SIDE_PX, "rgb", shuffle_buffer=4096)
    read_an_epoch(stream, arguments.batch_size)

    recipe = load_recipe("mae/vit_b16", list(CHANGES))
    assert recipe.pretrain is not None
    fabric = Fabric(accelerator="auto", devices=1, precision="bf16-mixed")
    settings = LoopSettings(epochs=1, batch_size=arguments.batch_size, lr=1e-4)
    streamed = training_steps(MaePretraining(recipe, recipe.pretrain, stream, None), settings, fabric)
    next(streamed)  # allocates, and fills the shuffle buffer
    print(f"training on the stream: RSS {rss_mb():.0f} MB")
    images = load_images(photos, SIDE_PX, "rgb").images
    memory = training_steps(MaePretraining(recipe, recipe.pretrain, images, None), settings, fabric)
    next(memory)
    seconds: dict[str, list[float]] = {"stream": [], "memory": []}
    until = time.perf_counter() + arguments.seconds
    while time.perf_counter() < until:
        for name, steps in (("stream", streamed), ("memory", memory)):
            seconds[name].append(next(steps))
    for name, taken in seconds.items():
        rate = arguments.batch_size / statistics.median(taken)
        print(f"step, pictures from {name}: {rate:.0f} images/s (median of {len(taken)} steps)")
    print(f"load {os.getloadavg()[0]:.1f}, RSS with the set in memory {rss_mb():.0f} MB")


if __name__ == "__main__":
    main()
