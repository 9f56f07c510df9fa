"""Two processes: what they compute is what one does, and they end together. `two_processes.py` is what they run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from fer_app.errors import CheckpointError
from tests.training.interrupted import rows
from tests.training.miniature import write_mini_shards
from tests.training.two_processes import CASES, TAUGHT, answers, codes_and_targets, objective, queries_and_keys, train
from training.checkpoint import load_checkpoint
from training.data.ferplus import load_ferplus
from training.distributed import gather, gather_rows
from training.losses.info_nce_loss import MocoV3Loss
from training.losses.mscl_loss import MsclLoss
from training.run_folder import RunFolder

TIMEOUT_S = 240  # on a machine that does much else; they take seconds


def start(repository: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=repository,
        env=environment,
        timeout=TIMEOUT_S,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1, precision="32-true")


@pytest.fixture(scope="module")
def pair(mini_ferplus: Path, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that two processes have written their cases to."""
    folder = tmp_path_factory.mktemp("pair")
    write_mini_shards(folder / "shards", [30, 9, 41, 20])
    ended = start(repository, "tests.training.two_processes", "equalities", str(mini_ferplus), str(folder))
    assert (ended.returncode, ended.stdout) == (0, ""), ended.stderr
    return folder


@pytest.fixture(scope="module")
def alone(mini_ferplus: Path, tmp_path_factory: pytest.TempPathFactory, fabric: Fabric) -> dict[str, dict[str, Tensor]]:
    """The weights of each case after one process had all samples, and `start`, those before."""
    folder = tmp_path_factory.mktemp("alone")
    states = {}
    for case in ("mae", "ce", "ce, balanced", "mscl, gathered", "pll"):
        target = objective(case, mini_ferplus)
        states[f"{case}, start"] = {name: tensor.clone() for name, tensor in target.model.state_dict().items()}
        states[case] = train(target, folder / case, fabric)
    return states


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return (
        float(sum((a[name] - tensor).square().sum() for name, tensor in b.items() if tensor.is_floating_point())) ** 0.5
    )


@pytest.mark.parametrize("case", [*CASES, "moco", "passes", "whole"])
def test_processes_end_with_the_same_weights(pair: Path, case: str) -> None:
    ours, theirs = (torch.load(pair / f"{case}-{rank}.pt") for rank in (0, 1))
    for name, tensor in ours.items():
        if "running_" not in name:  # every process's batch norm has seen other pictures; the first one's is kept
            assert torch.equal(theirs[name], tensor), name


@pytest.mark.parametrize(
    ("case", "theirs"),
    [*((case, case) for case in ("mae", "ce", "ce, balanced", "mscl, gathered", "pll")), ("mae", "passes")],
)
def test_two_processes_take_the_steps_of_one(
    pair: Path, alone: dict[str, dict[str, Tensor]], case: str, theirs: str
) -> None:
    state = torch.load(pair / f"{theirs}-0.pt")
    assert distance(alone[case], state) < 5e-3 * distance(alone[case], alone[f"{case}, start"])


def test_two_processes_revise_the_labels_that_one_does(
    pair: Path, mini_ferplus: Path, tmp_path: Path, fabric: Fabric
) -> None:
    train(objective("pll", mini_ferplus), tmp_path, fabric)
    ours, theirs = ((folder / "confidences.csv").read_text().splitlines() for folder in (tmp_path, pair / "pll"))
    assert sum(bool(line.split(",")[3]) for line in ours[1:]) > 10
    # A lead within rounding of the threshold may fall either way.
    assert len(ours) == len(theirs)
    assert sum(a != b for a, b in zip(ours, theirs, strict=True)) <= 1


def test_processes_contrast_their_own_faces_unless_told(pair: Path, alone: dict[str, dict[str, Tensor]]) -> None:
    state, case = torch.load(pair / "mscl, apart-0.pt"), "mscl, gathered"
    assert distance(alone[case], state) > 0.1 * distance(alone[case], alone[f"{case}, start"])


@pytest.mark.parametrize("case", ["mae", "ce", "ce, balanced", "mscl, gathered"])
def test_logged_terms_are_those_of_all_processes(
    pair: Path, mini_ferplus: Path, tmp_path: Path, fabric: Fabric, case: str
) -> None:
    train(objective(case, mini_ferplus), tmp_path, fabric, epochs=1)
    for ours, theirs in zip(rows(tmp_path), rows(pair / case), strict=False):
        for name in ("loss", "ce", "contrastive"):
            if name in ours:
                assert theirs[name] == pytest.approx(ours[name], rel=1e-4)


def test_gathered_loss_and_its_gradient_are_those_of_all_codes(pair: Path) -> None:
    codes, targets = codes_and_targets()
    weight = torch.eye(codes.shape[1], requires_grad=True)
    loss = MsclLoss()(nn.functional.normalize(codes @ weight, dim=1), targets)
    loss.backward()
    assert weight.grad is not None
    assert weight.grad.norm() > 0.1
    for rank in (0, 1):
        value, gradient = torch.load(pair / f"loss-{rank}.pt")
        torch.testing.assert_close(value, loss.detach())
        torch.testing.assert_close(gradient, weight.grad)


def test_keys_of_all_processes_are_the_negatives(pair: Path) -> None:
    queries, keys = queries_and_keys()
    weight = torch.eye(5, requires_grad=True)
    asked = [nn.functional.normalize(view @ weight, dim=1) for view in queries]
    loss, _ = MocoV3Loss()((asked[0], asked[1]), (keys[0], keys[1]))
    loss.backward()
    assert weight.grad is not None
    assert weight.grad.norm() > 0.1
    for rank in (0, 1):
        value, gradient = torch.load(pair / f"keys-{rank}.pt")
        torch.testing.assert_close(value, loss.detach())
        torch.testing.assert_close(gradient, weight.grad)


def test_processes_share_what_teachers_are_asked(pair: Path) -> None:
    whole = [answers(number) for number in TAUGHT]
    assert tuple(map(len, whole)) == TAUGHT
    for rank in (0, 1):
        told = torch.load(pair / f"answers-{rank}.pt")
        assert all(torch.equal(a, b) for a, b in zip(told, whole, strict=True))


def test_one_process_gathers_nothing() -> None:
    z, targets = codes_and_targets()
    assert gather(z, targets) == (z, targets)
    assert gather_rows(z) == (z, 0)


def test_the_first_process_writes_and_everything_once(pair: Path) -> None:
    steps = [row["step"] for row in rows(pair / "ce")]
    assert steps == [2, 2, 4, 4]  # an epoch of two steps: its row, and its figures
    assert load_checkpoint(pair / "ce" / "last.safetensors")[1].counters["steps"] == 4
    assert list(pair.rglob(".fer-*.tmp")) == []


def test_a_killed_pair_resumes_bit_identical(pair: Path) -> None:
    """With mixing, stochastic depth, batch norm and a moving average."""
    assert rows(pair / "killed") == rows(pair / "whole")
    for name in ("last", "best"):
        (a, _), (b, _) = (load_checkpoint(pair / which / f"{name}.safetensors") for which in ("killed", "whole"))
        assert all(torch.equal(a[key], b[key]) for key in b)


def test_processes_label_by_the_same_centroids(pair: Path) -> None:
    """The first one moves them after an epoch; batch norm's running statistics and they are all that may differ."""
    (ours, centroids), (theirs, others) = (torch.load(pair / f"few labels-{rank}.pt") for rank in (0, 1))
    assert len(centroids) == len(others) == 2 * 2 * 2  # to guess and in the loss, two epochs of two steps
    assert all(torch.equal(a, b) for a, b in zip(centroids, others, strict=True))
    assert not torch.equal(centroids[0], centroids[-1])
    for name, tensor in ours.items():
        if "running_" not in name and name != "centroids":
            assert torch.equal(theirs[name], tensor), name


def test_a_killed_stream_of_two_processes_resumes_bit_identical(pair: Path) -> None:
    assert [row["step"] for row in rows(pair / "stream")] == [3, 3, 6, 6]  # 100 pictures in steps of 32
    assert rows(pair / "stream, killed") == rows(pair / "stream")
    (a, _), (b, _) = (load_checkpoint(pair / which / "last.safetensors") for which in ("stream, killed", "stream"))
    assert all(torch.equal(a[key], b[key]) for key in b)


def test_faces_are_read_once_a_machine(pair: Path, mini_ferplus: Path) -> None:
    assert [(pair / f"read-{rank}").exists() for rank in (0, 1)] == [True, False]
    faces = load_ferplus(mini_ferplus, "train-main")
    files = set()
    for rank in (0, 1):
        images, targets, names, class_names = torch.load(pair / f"shared-{rank}.pt")
        assert torch.equal(images, faces.images)
        assert faces.targets is not None
        assert torch.equal(targets, faces.targets)
        assert (names, class_names) == (faces.names, faces.class_names)
        (mapped,) = {line.split()[5] for line in (pair / f"maps-{rank}.txt").read_text().splitlines()}
        files.add(mapped)
    assert len(files) == 1
    assert not Path(files.pop()).exists()


def test_a_process_that_diverges_stops_both(pair: Path) -> None:
    told = [(pair / f"diverged-{rank}.txt").read_text() for rank in (0, 1)]
    assert told[0].startswith("DivergedError('the loss is not finite from step 1 on")
    assert told[1] == "SystemExit(1)"
    assert rows(pair / "diverged")[-1]["diverged"]["loss"] == "nan"
    assert (pair / "diverged" / "diverged.safetensors").is_file()
    assert not (pair / "diverged" / "state.pt").exists()


def test_another_number_of_processes_does_not_resume(pair: Path, mini_ferplus: Path, fabric: Fabric) -> None:
    with pytest.raises(CheckpointError, match=r"is of 2 processes, this run has 1 .* resume with 2 \(--devices"):
        train(objective("ce", mini_ferplus), pair / "ce", fabric, resume=True)


def assert_gone(folder: Path) -> None:
    """See that both processes have ended, or do so soon."""
    for path in folder.glob("pid-*"):
        until = time.monotonic() + 60
        while Path(f"/proc/{path.read_text()}").exists() and time.monotonic() < until:
            time.sleep(0.1)
        assert not Path(f"/proc/{path.read_text()}").exists()


def test_an_error_in_one_process_ends_both_and_is_told_once(
    mini_ferplus: Path, tmp_path: Path, repository: Path
) -> None:
    """While the first one waits for the second one's gradients."""
    ended = start(repository, "tests.training.two_processes", "fail", str(mini_ferplus), str(tmp_path))
    assert ended.returncode == 1
    assert ended.stderr == "fer: error: the second process cannot read\n"
    assert_gone(tmp_path)


@pytest.mark.slow
def test_a_killed_process_ends_the_other(mini_ferplus: Path, tmp_path: Path, repository: Path) -> None:
    ended = start(repository, "tests.training.two_processes", "kill", str(mini_ferplus), str(tmp_path))
    assert ended.returncode in (1, -9)  # Fabric's launcher may be quicker to end the first process
    assert "fer: error: another process of the run has ended or cannot be reached" in ended.stderr
    assert_gone(tmp_path)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both(mini_ferplus: Path, tmp_path: Path, repository: Path) -> None:
    """The second one is told, a child of the first, as `fer train --devices 2` starts it."""
    script, run = tmp_path / "fer", tmp_path / "run"
    script.write_text("from fer_app.cli import main\nif __name__ == '__main__':\n    main()\n")
    arguments = ["train", "debug", "--data", str(mini_ferplus), "--run-dir", str(run), "--set", "finetune.epochs=500"]
    command = [sys.executable, str(script), *arguments, "--devices", "2", "--accelerator", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + TIMEOUT_S
        while not (run / "finetune" / "metrics.jsonl").exists() and time.monotonic() < until:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.05)
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(child), signal.SIGTERM)
        told = process.communicate(timeout=TIMEOUT_S)[1]
    assert process.returncode == 143, told
    assert told.count("fer: stopped by SIGTERM at epoch ") == 1
    assert "Traceback" not in told
    assert json.loads((run / "unfinished.json").read_text())["signal"] == "SIGTERM"
    assert not (run / "lock.json").exists()
    state = RunFolder(run / "finetune").load_state()
    assert state is not None
    assert state["processes"] == 2


@pytest.mark.slow
def test_torchrun(mini_ferplus: Path, tmp_path: Path, repository: Path) -> None:
    """The whole command: both stages, then the numbers of processes that it refuses."""
    torchrun = ("torch.distributed.run", "--nproc-per-node", "2", "--standalone", "--no-python", sys.executable, "-c")
    fer = "from fer_app.cli import main; main()"
    arguments = ("train", "debug", "--data", str(mini_ferplus), "--run-dir", str(tmp_path / "run"))
    ended = start(repository, *torchrun, fer, *arguments, "--accelerator", "cpu")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == str(tmp_path / "run" / "finetune" / "best.safetensors")
    assert "batch_size 16 x accumulate 1 x processes 2 = 32 images a step; learning rate 0.00375 " in ended.stderr
    assert ended.stderr.count("next: fer eval") == 1
    assert json.loads((tmp_path / "run/finetune/done.json").read_text())["processes"] == 2
    ended = start(repository, *torchrun, fer, *arguments, "--accelerator", "cpu", "--devices", "3")
    assert ended.returncode == 1
    assert "torchrun started 2 processes, 2 of them here, and --devices and --nodes say 3 on each of 1" in ended.stderr


@pytest.mark.slow
def test_weights_in_pieces(
    mini_ferplus: Path, tmp_path: Path, repository: Path, alone: dict[str, dict[str, Tensor]]
) -> None:
    """FSDP on a CPU: the steps of one process, and bit-identical after a kill."""
    ended = start(repository, "tests.training.two_processes", "shards", str(mini_ferplus), str(tmp_path))
    assert ended.returncode == 0, ended.stderr
    state = RunFolder(tmp_path / "mae").load_state()
    assert state is not None
    assert distance(alone["mae"], state["model"]) < 5e-3 * distance(alone["mae"], alone["mae, start"])
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    for name in ("last", "best"):
        (a, _), (b, _) = (load_checkpoint(tmp_path / which / f"{name}.safetensors") for which in ("killed", "whole"))
        assert all(torch.equal(a[key], b[key]) for key in b)
