"""Running a recipe: its stages in order, each in its own folder, each picked up where it stopped."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies.fsdp import FSDPStrategy
from torch import Tensor

from fer_app.errors import CheckpointError, ConfigError
from training.allocator import keep_freed_memory
from training.announcement import announce, need_room
from training.board import need_tensorboard
from training.checkpoint import init_path, is_checkpoint
from training.data.datasets import Contempt, Split, at, load
from training.data.ferplus_votes import VoteMode
from training.data.general import load_images
from training.data.image_set import ImageSet
from training.data.locate import DataSources
from training.data.photo_plan import plan_photos
from training.data.photo_stream import PhotoStream
from training.data.prepared import crop_note
from training.distributed import World, launch
from training.encoder_weights import fit_encoder, read_encoder
from training.fingerprint import differences
from training.fsdp import need_plain_run
from training.interruption import RunInterruptedError
from training.kept_head import take_head
from training.loop import LoopSettings, fit
from training.made_by import made_by
from training.margin_mix import MarginMix
from training.margin_mix_table import MarginMixTable
from training.memory import need_memory
from training.mimic_finetuning import MimicFinetuning
from training.objective import Objective
from training.pll_finetuning import PllFinetuning
from training.pretraining import pretraining
from training.progress_state import Progress
from training.public_weights import read_public_weights
from training.recipe import FinetuneTable, PretrainTable, Recipe, Stage
from training.report import Report
from training.run_folder import RunFolder
from training.run_lock import locked
from training.shared_faces import once_a_machine


def run_recipe(
    recipe: Recipe,
    data: DataSources,
    run_dir: Path,
    report: Report,
    *,
    resume: bool = False,
    tensorboard: bool = False,
    encoder: Path | None = None,
    fabric: Fabric | None = None,
) -> Path:
    """Run all stages; returns the checkpoint that the last one made (the best, where it selects).

    Args:
        recipe: what to run.
        data: where the pictures are.
        run_dir: made if needed; stages get the folders `pretrain` and `finetune` in it.
        report: tells the user.
        resume: go on from what `run_dir` holds; without it, a folder that holds a run is refused.
        tensorboard: also write TensorBoard's files, to the folder `tensorboard` of each stage.
        encoder: the checkpoint that `recipe:NAME` (`init`, a teacher) stands for, which `training.sweep` knows.
        fabric: of `training.distributed.launch`; None for one process on the best device.

    Raises:
        CheckpointError: the folder holds a run and `resume` is off, holds none or another recipe's and `resume` is on,
            or is in use by another process.
        RunInterruptedError: a signal stopped it, see `training.interruption`; `unfinished.json` says where.
        MissingExtraError: `tensorboard` is asked for and not installed.
        FerError: as the stages raise.
    """
    keep_freed_memory()
    if tensorboard:
        need_tensorboard()
    fabric = fabric or launch(recipe.precision)
    world = World(fabric)
    report = report if world.rank == 0 else Report(None)
    _need_sources(recipe, data, report)
    with contextlib.ExitStack() as held:

        def claim() -> None:
            run = RunFolder(run_dir, make=False)
            if resume and not run.holds_run:
                raise CheckpointError(
                    f"nothing to resume: {run_dir} holds no run; check --run-dir, or leave out --resume"
                )
            RunFolder(run_dir)
            held.enter_context(locked(run_dir))
            if run.holds_run and not resume:
                raise CheckpointError(f"{run_dir} already holds a run: pass --resume to go on, or another --run-dir")
            run.refuse_another_recipe(recipe.to_json(), instead="pass another --run-dir")

        world.first(claim)
        return _run_stages(
            recipe, data, run_dir, report, fabric, resume=resume, tensorboard=tensorboard, encoder=encoder
        )


def _run_stages(
    recipe: Recipe,
    data: DataSources,
    run_dir: Path,
    report: Report,
    fabric: Fabric,
    *,
    resume: bool,
    tensorboard: bool,
    encoder: Path | None,
) -> Path:
    """Run what is not done yet, in a folder that is ours."""
    world, run = World(fabric), RunFolder(run_dir, make=False)
    for note in recipe.notes():
        report.line(note)
    start = _initial_encoder(recipe, report, encoder)
    made = run_dir
    for stage in recipe.stages:
        world.first(_make, run_dir / stage)
        folder = RunFolder(run_dir / stage, tensorboard=tensorboard, make=False)
        done = world.first(folder.summary)
        if done is None or "data" in done:  # older ones do not tell what they were trained on
            with need_memory(stage):
                objective, settings = _prepare(
                    stage, recipe, data, start, folder, fabric, report, resume=resume, encoder=encoder
                )
        if done is not None:
            if "data" in done and (changed := differences(done["data"], objective.fingerprint())):
                raise CheckpointError(f"the data is not what {folder.path} was trained on: {'; '.join(changed)}")
            report.line(f"{stage}: already done in {folder.path}")
        else:
            if isinstance(objective, MimicFinetuning) and objective.keeps_head and stage == recipe.stages[0]:
                report.line(take_head(objective.model, recipe.init, objective.class_names))
            if isinstance(objective, MimicFinetuning) and objective.teachers is not None:
                report.line(objective.teachers.describe())
            world.first(need_room, stage, folder, objective, settings, report)
            try:
                with need_memory(stage):
                    announce(stage, recipe, objective, settings, fabric, report)
                    world.first(_begin, recipe, run, report)
                    progress = fit(objective, settings, folder, fabric, report, resume=resume)
            except RunInterruptedError as interruption:
                world.first(run.mark_unfinished, {"stage": stage, **interruption.marker()})
                raise
            world.first(_finish, folder, progress, objective, world.size)
        made = folder.made
        start = read_encoder(made)[0]
    return made


def _make(path: Path) -> None:
    RunFolder(path)


def _begin(recipe: Recipe, run: RunFolder, report: Report) -> None:
    """Write the recipe down: not before a stage can start, so that a mistake leaves the folder free."""
    run.claim(recipe.to_json())
    if (stopped := run.take_unfinished()) is not None:
        if isinstance(stopped.get("epoch"), int):
            stopped["epoch"] += 1  # people count from 1
        report.line("going on after " + ", ".join(f"{key} {value}" for key, value in stopped.items()))


def _finish(folder: RunFolder, progress: Progress, objective: Objective, processes: int) -> None:
    """Mark a stage as done, with what tells its data from other data, and what made it."""
    spent = {"seconds": round(progress.seconds), "epochs": progress.epoch, "processes": processes, **progress.figures}
    folder.finish({**spent, "data": objective.fingerprint(), **made_by()})


def _need_sources(recipe: Recipe, data: DataSources, report: Report) -> None:
    """Miss what any stage reads now, and not after hours of the stage before it; say which labelled set was found."""
    pretrain = recipe.pretrain if "pretrain" in recipe.stages else None
    images = pretrain.images if pretrain is not None else ()
    if pretrain is not None and "photos" in images:
        data.need_photos(pretrain.photos_from)
    if "faces" in images or "finetune" in recipe.stages:
        reader, base = at(data.need_faces())
        report.line(f"labelled faces: {reader.title}, {base}")
        if (note := crop_note(reader.name, base, recipe.model.img_size)) is not None:
            report.line(note)


def _initial_encoder(recipe: Recipe, report: Report, encoder: Path | None) -> dict[str, Tensor] | None:
    """Return the weights that `init` names, and say what they are.

    None for `scratch`; else the bundled model's, a checkpoint's of this project (`encoder` for another recipe's), or
    published ones.
    """
    if recipe.init == "scratch":
        return None
    path = init_path(recipe.init)
    if recipe.init.startswith("recipe:"):
        if encoder is None:
            raise ConfigError(
                f"init = {recipe.init!r} is what the recipe {recipe.starts_from} beside this one makes: "
                "pass --set init=PATH, or, if that one pre-trains alone, run their folder with `fer sweep`"
            )
        path = encoder
    if is_checkpoint(path):
        weights, info = read_encoder(path)
        held = f"{len(weights)} tensors of the encoder of a checkpoint"
        notes = fit_encoder(weights, info, recipe.model.vit_config(), recipe.seed)
        line = f"init: {path}: " + "; ".join([held, *notes])
    else:
        weights, line = read_public_weights(recipe.init, recipe.model)
    report.line(line)
    return weights


def _prepare(
    stage: Stage,
    recipe: Recipe,
    data: DataSources,
    start: dict[str, Tensor] | None,
    folder: RunFolder,
    fabric: Fabric,
    report: Report,
    *,
    resume: bool,
    encoder: Path | None,
) -> tuple[Objective, LoopSettings]:
    """Read the stage's data and build what it trains."""
    table = recipe.pretrain if stage == "pretrain" else recipe.finetune
    assert table is not None  # the recipe's own validation
    objective: Objective
    if isinstance(table, PretrainTable):
        images = _pretraining_images(recipe, table, data, folder, fabric, report, resume=resume)
        objective = pretraining(recipe, table, images, start, report, encoder)
    else:
        faces = _labelled(
            recipe,
            data,
            fabric,
            table.split,
            votes=table.votes,
            contempt=table.contempt,
            limit=table.limit,
            share=table.train_share,
        )
        selects = table.split == "train-main"
        selection = _labelled(recipe, data, fabric, "dev", contempt=table.contempt) if selects else None
        if isinstance(table, MarginMixTable):
            objective = MarginMix(recipe, table, faces, selection, start)
            World(fabric).first(objective.write_labelled, folder.path / "labelled.txt")
        else:
            kind = PllFinetuning if table.loss == "pll" else MimicFinetuning
            objective = kind(recipe, table, faces, selection, start)
    settings = LoopSettings(
        epochs=table.epochs,
        batch_size=table.batch_size,
        accumulate=table.accumulate,
        lr=table.lr * fabric.world_size,
        min_lr=table.min_lr,
        warmup_epochs=table.warmup_epochs,
        optimizer=table.optimizer,
        betas=table.betas,
        clip_grad=table.clip_grad,
        ema_decay=table.ema_decay,
        seed=recipe.seed,
        precision=recipe.precision,
        checkpoint_minutes=recipe.checkpoint_minutes,
        compile=recipe.compile,
        checkpoint_activations=recipe.checkpoint_activations,
    )
    if objective.num_samples < fabric.world_size:
        raise ConfigError(f"{objective.num_samples} pictures are too few for {fabric.world_size} processes")
    if isinstance(fabric.strategy, FSDPStrategy):
        if isinstance(objective, MarginMix):
            raise ConfigError("--strategy fsdp does not go with learning from few labels: use --strategy ddp")
        need_plain_run(
            ema=settings.ema_decay is not None,
            compiles=settings.compile,
            checkpoints_activations=settings.checkpoint_activations,
            frozen_networks=(isinstance(table, PretrainTable) and table.method in ("moco_v3", "mimco"))
            or (isinstance(table, FinetuneTable) and table.distill is not None),
        )
    return objective, settings


def _pretraining_images(
    recipe: Recipe,
    table: PretrainTable,
    data: DataSources,
    folder: RunFolder,
    fabric: Fabric,
    report: Report,
    *,
    resume: bool,
) -> Tensor | PhotoStream:
    """Return the unlabelled pictures, uint8 (N, C, H, W), at the size that the data has in common, or a stream."""
    side, mode = recipe.model.img_size, recipe.model.color_mode
    if table.stream is True and table.images != ("photos",):
        raise ConfigError('pretrain.stream = true reads photos alone: set pretrain.images = ["photos"]')
    if table.images == ("photos",):
        plan = World(fabric).first(
            plan_photos,
            data.need_photos(table.photos_from),
            folder.path / "photos.json",
            picture_bytes=side * side * (1 if mode == "gray" else 3),
            stream=table.stream,
            limit=table.limit,
            strict=table.strict_shards,
            processes=fabric.world_size // getattr(fabric.strategy, "num_nodes", 1),
            resume=resume,
        )
        for line in plan.lines:
            report.line(line)
        if plan.shards is not None:
            buffer, strict = table.shuffle_buffer, table.strict_shards
            return PhotoStream(plan.shards, side, mode, shuffle_buffer=buffer, strict=strict)
    parts = []
    if "photos" in table.images:
        parts.append(load_images(data.need_photos(table.photos_from), side, mode, limit=table.limit).images)
    if "faces" in table.images:
        faces = _labelled(recipe, data, fabric, table.split, limit=table.limit).images
        if faces.shape[-1] != side:
            faces = torch.nn.functional.interpolate(faces, size=(side, side), mode="bilinear", antialias=True)
        parts.append(faces if mode == "gray" else faces.expand(-1, 3, -1, -1))
    if not parts:
        raise ConfigError("pretrain.images is empty: name photos, faces, or both")
    return torch.cat(parts) if len(parts) > 1 else parts[0]  # which would be a second copy


def _labelled(
    recipe: Recipe,
    data: DataSources,
    fabric: Fabric,
    split: Split,
    *,
    votes: VoteMode = "majority",
    contempt: Contempt = "keep",
    limit: int | None = None,
    share: float = 1.0,
) -> ImageSet:
    """Read a split of the labelled set at the recipe's size and colour mode, in one process a machine."""
    size, mode = recipe.model.img_size, recipe.model.color_mode
    asked = functools.partial(load, data.need_faces(), split, img_size=size, color_mode=mode)
    return once_a_machine(fabric, functools.partial(asked, votes=votes, contempt=contempt, limit=limit, share=share))
