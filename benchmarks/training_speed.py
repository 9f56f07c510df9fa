"""Time a pre-training step and a fine-tuning step against a plain implementation, in the same run, taking turns.

    python benchmarks/training_speed.py [--sizes tiny base] [--rounds 5] [--data FOLDER] [--json FILE]

One image is one picture that passes through the network: a fine-tuning step on F faces has 2 F of them. The plain side
(`plain_training.py`) opens and augments JPEG files as it goes; ours reads them once, before the clock starts, and that
time is printed. On a GPU both sides run there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from PIL import Image
from plain_training import CLASSES, WORKERS, PlainTraining

from training.allocator import keep_freed_memory
from training.augment import epoch_draws
from training.data.general import load_images
from training.data.image_set import ImageSet
from training.loop import LoopSettings, make_optimizer, mark_forward_methods, prepare_model
from training.mae_pretraining import MaePretraining
from training.memory import peak_bytes, reset_peak
from training.mimic_finetuning import MimicFinetuning
from training.mixing import MixUpCutMix
from training.objective import Objective
from training.recipe import Recipe
from training.recipe_files import load_recipe
from training.sampling import Share

KINDS = ("mae", "finetune")
# encoder and decoder: width, blocks, heads. batch: pictures of a step by kind; steps: timed ones a round.
SIZES: dict[str, dict[str, Any]] = {
    "smoke": {
        **{"img_size": 16, "patch_size": 8, "encoder": (24, 1, 2), "decoder": (16, 1, 2)},
        **{"batch": {"mae": 4, "finetune": 2}, "steps": 1},
    },
    "tiny": {
        **{"img_size": 64, "patch_size": 8, "encoder": (192, 12, 3), "decoder": (192, 4, 6)},
        **{"batch": {"mae": 128, "finetune": 64}, "steps": 4},
    },
    "base": {
        **{"img_size": 224, "patch_size": 16, "encoder": (768, 12, 12), "decoder": (512, 8, 16)},
        **{"batch": {"mae": 16, "finetune": 4}, "steps": 2},
    },
}
RECIPES = {"mae": "mae/vit_b16", "finetune": "mimic/vit_b16_ferplus_official_code"}


def write_pictures(folder: Path, count: int, side: int) -> list[Path]:
    """Write JPEG files of smooth noise: about the bytes and the decoding time of photos of this size."""
    rng = np.random.default_rng(0)
    files = []
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8))
        files.append(folder / f"{i:05d}.jpg")
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(files[-1], quality=90)
    return files


def flops_an_image(kind: str, shape: dict[str, Any]) -> float:
    """Floating-point operations of the matrix products of one picture, forward and backward.

    2 for a multiplication and an addition; a block on n tokens of width D has 12 n D^2 + 2 n^2 D multiplications;
    backward counts twice forward (Chowdhery et al. 2022, arXiv:2204.02311, appendix B). Activations that are computed
    again, norms, softmax and the heads are not counted.
    """
    patches = (shape["img_size"] // shape["patch_size"]) ** 2
    pixels = 3 * shape["patch_size"] ** 2
    width, depth, _ = shape["encoder"]

    def blocks(tokens: int, dim: int, count: int) -> int:
        return count * (12 * tokens * dim**2 + 2 * tokens**2 * dim)

    products = patches * pixels * width
    if kind == "mae":
        decoder_width, decoder_depth, _ = shape["decoder"]
        kept = patches // 4
        products += blocks(kept + 1, width, depth) + (kept + 1) * width * decoder_width
        products += blocks(patches + 1, decoder_width, decoder_depth) + (patches + 1) * decoder_width * pixels
    else:
        products += blocks(patches + 1, width, depth)
    return 3.0 * 2.0 * products


def recipe_of(kind: str, shape: dict[str, Any]) -> Recipe:
    (width, depth, heads), (decoder_width, decoder_depth, decoder_heads) = shape["encoder"], shape["decoder"]
    sets = {
        **{"model.img_size": shape["img_size"], "model.patch_size": shape["patch_size"], "model.color_mode": "'rgb'"},
        **{"model.embed_dim": width, "model.depth": depth, "model.num_heads": heads, "model.drop_path_rate": 0.0},
    }
    if kind == "mae":
        sets |= {"pretrain.decoder_embed_dim": decoder_width, "pretrain.decoder_depth": decoder_depth}
        sets |= {"pretrain.decoder_num_heads": decoder_heads}
    else:
        sets |= {"finetune.label_smoothing": 0.0}
    return load_recipe(RECIPES[kind], [f"{key}={value}" for key, value in sets.items()])


class OurTraining:
    """Steps as `training.loop` takes them."""

    def __init__(self, kind: str, shape: dict[str, Any], images: torch.Tensor, **settings: Any) -> None:
        recipe = recipe_of(kind, shape)
        self.table: Any = recipe.pretrain if kind == "mae" else recipe.finetune
        self.kind, self.recipe, self.images, self.batch = kind, recipe, images, shape["batch"][kind]
        self.views = 1 if kind == "mae" else 2
        self.objective: Objective
        if kind == "mae":
            self.objective = MaePretraining(recipe, self.table, images, None)
        else:
            targets = torch.eye(CLASSES)[torch.arange(len(images)) % CLASSES]
            names = tuple(map(str, range(len(images))))
            faces = ImageSet(images, targets, names, tuple(f"class {i}" for i in range(CLASSES)))
            self.objective = MimicFinetuning(recipe, self.table, faces, None, None)
        loop = LoopSettings(epochs=1, batch_size=self.batch, lr=1e-4, **settings)
        self.fabric = Fabric(accelerator="auto", devices=1, precision="bf16-mixed")
        groups = self.objective.param_groups()
        prepare_model(self.objective.model, loop, self.fabric.device)
        self.model, self.optimizer = self.fabric.setup(self.objective.model, make_optimizer(groups, loop))
        mark_forward_methods(self.model, self.objective)
        self.model.train()
        epoch = self.objective.start_epoch(0, self.batch, Share())
        self.batches = itertools.cycle(list(epoch.starting_at(0)))
        self.rng = np.random.default_rng(0)

    def step(self) -> None:
        """One whole step, augmentation included."""
        with self.fabric.autocast():
            losses = self.objective.losses(self.model, next(self.batches), self.rng)
        self.fabric.backward(losses["loss"])
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        losses["loss"].item()

    def data_rate(self, repeats: int) -> float:
        """Images/s of picking, augmenting and mixing alone."""
        augment = self.recipe.model.augmentation(self.table.augment)
        draws = epoch_draws(0, 0, len(self.images), self.views, augment.n_draws)
        table, device = self.table, self.fabric.device

        def make_batch() -> None:
            samples = next(self.batches)
            chosen, its_draws = self.images[samples].to(device), draws[samples].to(device)
            made = torch.cat([augment(chosen, its_draws[:, view]) for view in range(self.views)])
            if self.kind == "finetune":
                mix = MixUpCutMix(table.mixup_alpha, table.cutmix_alpha, prob=table.mix_prob)
                made, _ = mix(made, torch.eye(CLASSES, device=device)[torch.zeros(len(samples)).long()], self.rng)
            float(made.sum())

        return self.batch * self.views / statistics.median(timed(make_batch) for _ in range(repeats + 1))


def timed(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def ceiling(device: torch.device, size: str, repeats: int = 5) -> float:
    """Floating-point operations/s of a bf16 product, 2048^3 on a CPU and 8192^3 on a GPU; 128^3 to try the script."""
    # A CPU without instructions for bf16 takes half a minute for 2048^3.
    n = 128 if size == "smoke" else 2048 if device.type == "cpu" else 8192
    a = torch.randn(n, n, device=device, dtype=torch.bfloat16)
    (a @ a)[0, 0].item()
    return 2 * n**3 / statistics.median(timed(lambda: (a @ a)[0, 0].item()) for _ in range(repeats))


def measure(kind: str, size: str, files: list[Path], images: torch.Tensor, rounds: int, memory: bool) -> dict[str, Any]:
    """Take turns: plain, ours, the ceiling; each round's rates and the medians; with `memory` the peaks too."""
    shape = SIZES[size]
    ours = OurTraining(kind, shape, images)
    batch, steps, device = shape["batch"][kind], shape["steps"], ours.fabric.device
    an_image, views = flops_an_image(kind, shape), ours.views
    plain = PlainTraining(kind, shape, files[: batch * (steps + 1)], batch, str(device))
    ours.step()
    rows = []
    for _ in range(rounds):
        running = plain.steps()
        next(running)  # starts the workers and fills their queues
        plain_rate = batch * views * steps / timed(lambda: list(running))  # noqa: B023 - called at once
        peak = ceiling(device, size)
        our_rate = batch * views / statistics.median(timed(ours.step) for _ in range(steps))
        data_rate = ours.data_rate(steps)
        peak = (peak + ceiling(device, size)) / 2
        step_rate = 1 / (1 / our_rate - 1 / data_rate)
        share = step_rate * an_image / peak
        rows.append(
            {
                **{"plain": plain_rate, "ours": our_rate, "ratio": our_rate / plain_rate, "data": data_rate},
                **{"step": step_rate, "data_over_step": data_rate / step_rate, "ceiling": peak},
                **{"share": share, "data_share": our_rate / data_rate},
            }
        )
    median = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    ratios = [row["ratio"] for row in rows]
    peaks = {name: peak_of(kind, size, name) for name in ("plain", "ours", "checkpointing") if memory}
    return {
        **{"kind": kind, "size": size, "batch": batch * views, "gflop_an_image": an_image / 1e9},
        **{"median": median, "ratio_range": [min(ratios), max(ratios)], "rounds": rows, "peak_bytes": peaks},
    }


def peak_of(kind: str, size: str, side: str) -> int | None:
    """Peak memory of two steps in a process of its own: of the process on a CPU, of torch's tensors on a GPU."""
    command = [sys.executable, __file__, "--peak", kind, size, side]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    peak: int | None = json.loads(done.stdout.splitlines()[-1])
    return peak


def print_peak(kind: str, size: str, side: str) -> None:
    """Take two steps of one side, without its loader, and print the peak."""
    shape = SIZES[size]
    batch = shape["batch"][kind]
    images = torch.zeros(2 * batch, 3, shape["img_size"], shape["img_size"], dtype=torch.uint8)
    if side == "plain":
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with tempfile.TemporaryDirectory() as name:
            files = write_pictures(Path(name), 2 * batch, shape["img_size"])
            plain = PlainTraining(kind, shape, files, batch, str(device))
            reset_peak(device)
            list(plain.steps())
    else:
        keep_freed_memory()
        ours = OurTraining(kind, shape, images, checkpoint_activations=side == "checkpointing")
        device = ours.fabric.device
        reset_peak(device)
        ours.step()
        ours.step()
    print(json.dumps(peak_bytes(device)))


def as_table(results: list[dict[str, Any]]) -> str:
    lines = [
        "| size, step | images a step | ours, images/s | plain, images/s | ratio (range) | step only, images/s "
        "| data only, images/s | data / step | ceiling, GFLOP/s | share of it | peak MB: plain, ours, checkpointing |",
        "|" + "---|" * 11,
    ]
    for one in results:
        m, (low, high) = one["median"], one["ratio_range"]
        peaks = ", ".join("?" if value is None else f"{value / 1e6:.0f}" for value in one["peak_bytes"].values())
        lines.append(
            f"| {one['size']}, {one['kind']} | {one['batch']} | {m['ours']:.1f} | {m['plain']:.1f} | {m['ratio']:.2f} "
            f"({low:.2f} to {high:.2f}) | {m['step']:.1f} | {m['data']:.0f} | {m['data_over_step']:.1f} "
            f"| {m['ceiling'] / 1e9:.0f} | {m['share']:.0%} | {peaks} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["tiny", "base"])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--rounds", type=int, default=5, help="how often the sides take turns")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch's threads, of both sides")
    parser.add_argument("--data", type=Path, help="a folder of JPEG files; by default they are made")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="leave out the peaks of memory")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        print_peak(*arguments.peak)
        return
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # of the whole process, so the plain side has it too
    results = []
    for size in arguments.sizes:
        shape = SIZES[size]
        with tempfile.TemporaryDirectory() as name:
            count = max(shape["batch"].values()) * (shape["steps"] + 1)
            if arguments.data:
                files = sorted(arguments.data.rglob("*.[jJ][pP]*[gG]"))[:count]
                if len(files) < count:
                    raise SystemExit(f"{arguments.data} has {len(files)} JPEG files; {size} needs {count}")
            else:
                files = write_pictures(Path(name), count, shape["img_size"])
            begun = time.perf_counter()
            images = load_images([arguments.data or Path(name)], shape["img_size"], "rgb", limit=count).images
            print(f"{size}: {count} pictures read once in {time.perf_counter() - begun:.2f} s", file=sys.stderr)
            results += [
                measure(kind, size, files, images, arguments.rounds, arguments.memory) for kind in arguments.kinds
            ]
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    machine = (
        f"{platform.machine()}, {os.cpu_count()} CPUs{load}, {arguments.threads} threads, torch {torch.__version__}"
    )
    print(f"{machine}; medians of {arguments.rounds} rounds; the plain side's loader has {WORKERS} workers\n")
    print(as_table(results))
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine, "results": results}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
