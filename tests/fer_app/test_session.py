from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest

from fer_app import session as session_module
from fer_app import tensorrt_cache
from fer_app.errors import InputError, ModelError, ModelNotFoundError, ProviderUnavailableError
from fer_app.session import Device, GpuOptions, device_problem, open_session, parse_device, physical_cores


@pytest.mark.parametrize(
    ("name", "device", "text"),
    [
        ("auto", Device("auto"), "auto"),
        (" CPU ", Device("cpu"), "cpu"),
        ("cuda", Device("cuda", 0), "cuda:0"),
        ("cuda:12", Device("cuda", 12), "cuda:12"),
        ("tensorrt:1", Device("tensorrt", 1), "tensorrt:1"),
    ],
)
def test_device_names(name, device, text):
    assert parse_device(name) == device
    assert str(parse_device(name)) == text


@pytest.mark.parametrize("name", ["", "gpu", "cuda:", "cuda:x", "cpu:0", "auto:1", "cuda:-1"])
def test_other_names_are_refused(name):
    with pytest.raises(InputError, match="no such device"):
        parse_device(name)


@pytest.fixture
def no_nvidia(monkeypatch):
    monkeypatch.setattr(session_module, "nvidia_device_visible", lambda: False)


@pytest.fixture
def fake_nvidia(monkeypatch):
    """A machine that has the driver and two devices but no working CUDA."""
    monkeypatch.setattr(session_module, "nvidia_device_visible", lambda: True)
    monkeypatch.setattr(session_module, "device_count", lambda: 2)
    monkeypatch.setattr(session_module, "newest_cuda", lambda: (13, 0))
    monkeypatch.setattr(session_module, "_preload_cuda", lambda: 'libcublas is missing; pip install "fer-mimic[cuda]"')


@pytest.fixture(autouse=True)
def engines_here(tmp_path, monkeypatch):
    """Keep TensorRT's engines, and the folders for them, out of the user's cache."""
    monkeypatch.setenv("FER_TENSORRT_CACHE", str(tmp_path / "engines"))
    return tmp_path / "engines"


class StubRuntime:
    """An ONNX Runtime whose sessions come up on the providers that "work", silently, as the real one does."""

    def __init__(self, working: list[str], available: list[str] | None = None) -> None:
        self.working = working
        self.available = available or ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
        self.asked: list[object] = []

    def get_available_providers(self):
        return self.available

    __version__ = "1.99.0"

    class GraphOptimizationLevel:
        ORT_DISABLE_ALL = 0

    class SessionOptions:
        def add_session_config_entry(self, key, value):
            assert (key, value) == ("session.intra_op.allow_spinning", "0")

    class RunOptions:
        def __init__(self):
            self.entries = {}

        def add_run_config_entry(self, key, value):
            self.entries[key] = value

    def InferenceSession(self, model, options, providers, enable_fallback):  # noqa: N802 - the library's name
        assert enable_fallback == 0
        self.asked = providers
        names = [p if isinstance(p, str) else p[0] for p in providers]
        return StubSession([name for name in names if name in self.working])


class StubSession:
    def __init__(self, providers):
        self._providers = providers

    def get_providers(self):
        return self._providers

    def get_inputs(self):
        return []

    get_outputs = get_inputs

    def run(self, outputs, feeds, options):
        return [None if options is None else options.entries]

    def get_modelmeta(self):
        class Meta:
            custom_metadata_map: dict[str, str] = {}  # noqa: RUF012

        return Meta


def use(monkeypatch, runtime):
    monkeypatch.setattr(session_module, "runtime", lambda: runtime)
    monkeypatch.setattr(session_module, "_why_library_fails", lambda device: "")


def test_cpu(tiny_model):
    session = open_session(tiny_model, device="cpu")
    assert (session.device, session.note) == ("cpu", "")
    assert session.input_names == ("images",)
    assert session.output_names == ("logits",)
    assert session.input_shapes == (("batch", 3, 16, 16),)
    assert session.output_shapes == (("batch", 8),)
    assert session.input_types == ("tensor(float)",)
    assert "fer.contract" in session.metadata
    (logits,) = session.run({"images": np.ones((2, 3, 16, 16), np.float32)})
    assert logits.shape == (2, 8)
    (from_bytes,) = open_session(tiny_model.read_bytes(), device="cpu", threads=1).run(
        {"images": np.ones((2, 3, 16, 16), np.float32)}
    )
    np.testing.assert_array_equal(logits, from_bytes)


def test_a_run_that_fails_is_a_model_error(tiny_model):
    session = open_session(tiny_model, device="cpu")
    with pytest.raises(ModelError, match="failed on cpu"):
        session.run({"images": np.ones((2, 3, 17, 16), np.float32)})


def test_files(tmp_path):
    with pytest.raises(ModelNotFoundError, match="missing"):
        open_session(tmp_path / "missing.onnx")
    with pytest.raises(ModelError, match="cannot load"):
        open_session(b"no model", device="cpu")


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "tensorrt"])
def test_no_driver_is_an_error_that_says_so(tiny_model, no_nvidia, device):
    with pytest.raises(ProviderUnavailableError, match=rf"{device}.*(no NVIDIA driver|onnxruntime-gpu)"):
        open_session(tiny_model, device=device)


def test_auto_without_nvidia_takes_the_cpu(tiny_model, no_nvidia):
    session = open_session(tiny_model)
    assert (session.device, session.note) == ("cpu", "")


def test_auto_takes_cuda_when_it_works(tiny_model, fake_nvidia, monkeypatch):
    runtime = StubRuntime(["CUDAExecutionProvider", "CPUExecutionProvider"])
    use(monkeypatch, runtime)
    assert open_session(tiny_model).device == "cuda:0"
    assert open_session(tiny_model, device="cuda:1").device == "cuda:1"
    (provider, options), last = runtime.asked
    assert (provider, options["device_id"], last) == ("CUDAExecutionProvider", "1", "CPUExecutionProvider")


def options_asked(runtime: StubRuntime) -> dict[str, str]:
    return dict(runtime.asked[0][1])


def test_provider_options_of_a_device(tiny_model, fake_nvidia, monkeypatch):
    runtime = StubRuntime(["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"])
    use(monkeypatch, runtime)
    plain = {"device_id": "1", "cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}
    open_session(tiny_model, device="cuda:1")
    assert options_asked(runtime) == plain
    open_session(tiny_model, device="cuda:1", gpu=GpuOptions(memory_mb=512))
    assert options_asked(runtime) == plain | {
        "gpu_mem_limit": str(512 * 1024 * 1024),
        "arena_extend_strategy": "kSameAsRequested",
    }
    open_session(tiny_model, device="cuda:1", gpu=GpuOptions(graphs=True))
    assert options_asked(runtime) == plain | {"enable_cuda_graph": "1"}
    open_session(tiny_model, device="tensorrt:1")
    assert [name for name, _ in runtime.asked[:2]] == ["TensorrtExecutionProvider", "CUDAExecutionProvider"]
    assert [options["device_id"] for _, options in runtime.asked[:2]] == ["1", "1"]


def test_an_ordinary_run_beside_graphs_is_not_recorded(tiny_model, fake_nvidia, monkeypatch):
    use(monkeypatch, StubRuntime(["CUDAExecutionProvider", "CPUExecutionProvider"]))
    for graphs, expected in ((True, {"gpu_graph_id": "-1"}), (False, None)):
        session = open_session(tiny_model, device="cuda", gpu=GpuOptions(graphs=graphs))
        (given,) = session.run({})
        assert given.item() == expected


def test_a_device_that_is_not_there_is_an_error_that_names_the_last(tiny_model, fake_nvidia, monkeypatch):
    use(monkeypatch, StubRuntime(["CUDAExecutionProvider", "CPUExecutionProvider"]))
    with pytest.raises(ProviderUnavailableError, match="no NVIDIA device 2: the last one is cuda:1"):
        open_session(tiny_model, device="cuda:2")
    monkeypatch.setattr(session_module, "device_count", lambda: 0)
    with pytest.raises(ProviderUnavailableError, match="no NVIDIA device 0: the driver shows none"):
        open_session(tiny_model, device="cuda")
    assert "shows none" in open_session(tiny_model, device="auto").note


def test_a_driver_older_than_the_runtime_s_cuda_is_told_before_anything_is_loaded(tiny_model, fake_nvidia, monkeypatch):
    use(monkeypatch, StubRuntime(["CUDAExecutionProvider", "CPUExecutionProvider"]))
    monkeypatch.setattr(session_module, "_cuda_needed", lambda: 13)
    monkeypatch.setattr(session_module, "newest_cuda", lambda: (12, 4))
    said = r"the NVIDIA driver runs CUDA 12\.4 at most, and ONNX Runtime needs CUDA 13; install a newer driver"
    assert re.fullmatch(said, device_problem("cuda"))
    with pytest.raises(ProviderUnavailableError, match=said):
        open_session(tiny_model, device="cuda")
    monkeypatch.setattr(session_module, "newest_cuda", lambda: (13, 0))
    assert "CUDA 13" not in device_problem("cuda")
    monkeypatch.undo()
    assert session_module._cuda_needed() in (0, *range(11, 20))


def test_what_only_cuda_has_is_refused_elsewhere(tiny_model, no_nvidia):
    for device in ("cpu", "tensorrt"):
        with pytest.raises(InputError, match="CUDA graphs"):
            open_session(tiny_model, device=device, gpu=GpuOptions(graphs=True))
    with pytest.raises(ProviderUnavailableError, match="no NVIDIA driver"):
        open_session(tiny_model, device="auto", gpu=GpuOptions(graphs=True))
    with pytest.raises(InputError, match=r"memory of tensorrt:1 .* cuda:1"):
        open_session(tiny_model, device="tensorrt:1", gpu=GpuOptions(memory_mb=100))
    assert open_session(tiny_model, device="auto", gpu=GpuOptions(memory_mb=100)).device == "cpu"
    with pytest.raises(InputError, match="0 MB"):
        GpuOptions(memory_mb=0)


def test_sessions_share_a_limit():
    assert GpuOptions(600, graphs=True).share(3) == GpuOptions(200, graphs=True)
    assert GpuOptions(1).share(3) == GpuOptions(1)
    assert GpuOptions().share(3) == GpuOptions()


def test_a_silent_fallback_is_an_error_when_asked_and_a_note_when_not(tiny_model, fake_nvidia, monkeypatch):
    use(monkeypatch, StubRuntime(["CPUExecutionProvider"]))
    for device in ("cuda", "tensorrt"):
        with pytest.raises(ProviderUnavailableError, match=rf"{device}:0: libcublas is missing; .*fer-mimic\[cuda\]"):
            open_session(tiny_model, device=device)
    session = open_session(tiny_model, device="auto")
    assert session.device == "cpu"
    assert "libcublas is missing" in session.note


def test_tensorrt_is_not_cuda(tiny_model, fake_nvidia, monkeypatch):
    use(monkeypatch, StubRuntime(["CUDAExecutionProvider", "CPUExecutionProvider"]))
    with pytest.raises(ProviderUnavailableError, match="tensorrt:0"):
        open_session(tiny_model, device="tensorrt")


def test_tensorrt_keeps_its_engine_and_builds_it_for_all_batches(tiny_model, fake_nvidia, monkeypatch, engines_here):
    runtime = StubRuntime(["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"])
    real = session_module.runtime()
    use(monkeypatch, runtime)
    monkeypatch.setattr(session_module, "_preload_cuda", lambda: "")
    opened = []

    def tiny_for_real(ort, model):
        opened.append(model)
        return real.InferenceSession(model, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(tensorrt_cache, "_opened", tiny_for_real)
    assert open_session(tiny_model, device="tensorrt:1", largest_batch=64).device == "tensorrt:1"
    assert opened == [str(tiny_model)]
    (provider, options), *_ = runtime.asked
    assert provider == "TensorrtExecutionProvider"
    assert options["device_id"] == "1"
    assert options["trt_profile_min_shapes"] == "images:1x3x16x16"
    assert options["trt_profile_opt_shapes"] == options["trt_profile_max_shapes"] == "images:64x3x16x16"
    (folder,) = (engines_here / "onnxruntime-1.99.0").iterdir()
    assert options["trt_engine_cache_enable"] == "1"
    assert options["trt_engine_cache_path"] == str(folder)
    assert "trt_fp16_enable" not in options
    open_session(tiny_model.read_bytes(), device="tensorrt")  # the same model: the same engine
    (_, options), *_ = runtime.asked
    assert options["trt_engine_cache_path"] == str(folder)
    assert "trt_profile_max_shapes" not in options
    content = tiny_model.read_bytes()
    open_session(content.replace(b'"precision": "fp32"', b'"precision": "fp16"'), device="tensorrt")
    (_, options), *_ = runtime.asked
    assert options["trt_fp16_enable"] == options["trt_layer_norm_fp32_fallback"] == "1"
    assert options["trt_engine_cache_path"] != str(folder)
    with pytest.raises(ProviderUnavailableError, match=r"8-bit ONNX files are for CPUs.*--backend tensorrt"):
        open_session(content.replace(b'"precision": "fp32"', b'"precision": "int8"'), device="tensorrt")
    (engines_here.parent / "file").write_text("no folder")
    monkeypatch.setenv("FER_TENSORRT_CACHE", str(engines_here.parent / "file"))
    with pytest.raises(ProviderUnavailableError, match=r"cannot be kept in .*: Not a directory; .*FER_TENSORRT_CACHE"):
        open_session(tiny_model, device="tensorrt")


def test_where_engines_are_kept(monkeypatch, tmp_path):
    monkeypatch.delenv("FER_TENSORRT_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert tensorrt_cache.cache_folder() == tmp_path / "fer-mimic" / "tensorrt"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tensorrt_cache.cache_folder() == tmp_path / ".cache" / "fer-mimic" / "tensorrt"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert tensorrt_cache.cache_folder() == tmp_path / "local" / "fer-mimic" / "tensorrt"


def test_a_build_without_cuda_names_the_package(tiny_model, fake_nvidia, monkeypatch):
    use(monkeypatch, StubRuntime(["CPUExecutionProvider"], available=["CPUExecutionProvider"]))
    with pytest.raises(ProviderUnavailableError, match="onnxruntime-gpu"):
        open_session(tiny_model, device="cuda")


def test_hidden_devices_are_not_seen(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not session_module.nvidia_device_visible()
    assert device_problem("cuda")


def test_device_problem(no_nvidia):
    assert device_problem("cpu") == ""
    assert device_problem("auto") == ""
    assert device_problem("cuda")


def test_physical_cores():
    import os

    assert 1 <= physical_cores() <= (os.cpu_count() or 1)


def test_nothing_is_written_besides_results(tiny_model):
    """ONNX Runtime's own warnings do not reach the user, whatever was asked for."""
    code = (
        "import sys, pathlib\n"
        "import fer_app.session as s\n"
        "assert 'onnxruntime' not in sys.modules\n"
        "s.nvidia_device_visible = lambda: True\n"
        "for device in ('cpu', 'auto', 'cuda', 'tensorrt'):\n"
        "    try:\n"
        f"        s.open_session(pathlib.Path({str(tiny_model)!r}), device=device)\n"
        "    except s.ProviderUnavailableError:\n"
        "        pass\n"
        "print('done')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@pytest.mark.gpu
def test_cuda_computes_what_the_cpu_does(tiny_model):
    images = np.random.default_rng(0).random((5, 3, 16, 16), np.float32)
    (on_cpu,) = open_session(tiny_model, device="cpu").run({"images": images})
    session = open_session(tiny_model, device="cuda")
    assert session.device == "cuda:0"
    np.testing.assert_allclose(session.run({"images": images})[0], on_cpu, atol=1e-3)
