"""Where training runs, and in which precision."""

import platform
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from dmgan_runtime.errors import BackendError
from dmgan_train import distributed
from dmgan_train.devices import autocast_type, choose_device, default_workers, resolve_precision
from dmgan_train.settings import resolve_settings
from tests.training import small_settings

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")


BF16 = pytest.mark.parametrize("has_bf16", [True, False], indirect=True)


@pytest.fixture(autouse=True)
def arithmetic() -> Iterator[None]:
    """What PyTorch is told for the whole process is told back."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    yield
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before


@pytest.fixture
def has_bf16(request, monkeypatch) -> bool:
    """A machine whose CPU and GPU have bf16 instructions, or not."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True, "avx512_bf16": request.param})
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: request.param)
    return request.param


def test_pytorch_takes_no_more_threads_than_there_are_cpus(monkeypatch) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        for usable, threads in ((2, 2), (1, 1), (8, 1)):
            monkeypatch.setattr("dmgan_train.devices.usable_cpus", lambda usable=usable: usable)
            choose_device("cpu")
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is told to keep memory")
def test_memory_that_was_freed_is_used_again_without_asking_the_system() -> None:
    """Each page of a block that comes fresh from the system is a page fault; blocks of a step's size are many."""
    script = """
import resource, torch
from dmgan_train.devices import keep_freed_memory

def faults_of_a_block():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

fresh = faults_of_a_block()
keep_freed_memory()
# What was freed may be a few bytes too small for the next, until it has grown together with what lies beside it.
kept = [faults_of_a_block() for _ in range(32)][16:]
print(fresh, max(kept))
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    fresh, kept = map(int, ran.stdout.split())
    assert kept < fresh / 10


@BF16
@pytest.mark.parametrize("device", [CPU, CUDA])
def test_auto_takes_bf16_where_there_are_instructions(device, has_bf16) -> None:
    assert autocast_type("fp32", device) is None
    assert autocast_type("auto", device) == (torch.bfloat16 if has_bf16 else None)
    if has_bf16:
        assert autocast_type("bf16", device) == torch.bfloat16
    else:
        with pytest.raises(BackendError, match="no bf16 instructions; use auto"):
            autocast_type("bf16", device)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"architecture": "x86_64", "avx512_bf16": True, "amx_bf16": False}, torch.bfloat16),
        ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": True}, torch.bfloat16),
        ({"architecture": "x86_64", "avx512_f": True, "avx512_vnni": True, "avx512_bf16": False}, None),
        ({"architecture": "arm64", "bf16": True}, torch.bfloat16),
        ({"architecture": "arm64", "neon": True, "bf16": False}, None),
        ({"architecture": "ppc64le"}, None),
    ],
)
def test_instructions_are_those_of_the_processor(flags, expected, monkeypatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
    assert autocast_type("auto", CPU) == expected
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert autocast_type("auto", CPU) is None


def test_this_processor_is_asked_by_names_that_pytorch_knows() -> None:
    """On x86 the stand-ins' names are PyTorch's; on ARM likewise."""
    known = torch.cpu.get_capabilities()
    assert {"avx512_bf16", "amx_bf16"} <= known.keys() or "bf16" in known


def test_fp16_is_for_gpus() -> None:
    assert autocast_type("fp16", CUDA) == torch.float16
    with pytest.raises(BackendError, match="for GPUs; use auto or fp32"):
        autocast_type("fp16", CPU)


@BF16
@pytest.mark.parametrize("preset", ["tiny", "emoji"])
def test_a_small_preset_takes_what_the_machine_has(preset, has_bf16) -> None:
    settings = resolve_precision(resolve_settings(preset), CPU)
    expected = "bf16" if has_bf16 else "fp32"
    assert (settings.damsm.precision, settings.gan.precision) == (expected, expected)


@BF16
@pytest.mark.parametrize("preset", ["birds", "coco"])
def test_the_papers_presets_are_fp32(preset, has_bf16) -> None:
    assert resolve_precision(resolve_settings(preset), CPU) == resolve_settings(preset)


def test_what_was_asked_for_is_not_resolved() -> None:
    assert resolve_precision(small_settings("gan.precision=fp16"), CUDA).gan.precision == "fp16"
    with pytest.raises(BackendError, match="fp16, which is for GPUs"):
        resolve_precision(small_settings("gan.precision=fp16"), CPU)


@BF16
def test_a_run_keeps_to_what_it_began_with(has_bf16) -> None:
    """In each phase, whatever machine it goes on; where that cannot be, it says so."""
    asked = small_settings("gan.precision=auto", "damsm.precision=auto")
    for damsm, gan in (("fp32", "fp32"), ("fp32", "bf16"), ("bf16", "fp32")):
        begun = small_settings(f"damsm.precision={damsm}", f"gan.precision={gan}")
        if has_bf16 or "bf16" not in (damsm, gan):
            assert resolve_precision(asked, CPU, begun) == begun
        else:
            phase = "damsm" if damsm == "bf16" else "gan"
            with pytest.raises(
                BackendError, match=rf"began with {phase}\.precision=bf16, for which the cpu here .* another --run"
            ):
                resolve_precision(asked, CPU, begun)
            with pytest.raises(BackendError, match=rf"began with {phase}\.precision=bf16"):
                resolve_precision(begun, CPU, begun)


@pytest.mark.parametrize(("name", "remedy"), [("gpu9", "use auto, cpu or cuda"), ("meta", "only the CPU and CUDA")])
def test_another_device_is_an_error(name, remedy) -> None:
    with pytest.raises(BackendError, match=remedy):
        choose_device(name)


def test_each_process_of_torchrun_has_its_own_gpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("torch.distributed.is_torchelastic_launched", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_device("auto") == torch.device("cuda:1")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(BackendError, match="there are 2 CUDA devices"):
        choose_device("cuda")


@pytest.mark.parametrize("name", ["auto", "cuda", "cuda:0"])
def test_a_gpu_is_one_that_pytorch_can_make_current(name, monkeypatch) -> None:
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch._C, "_cuda_setDevice", chosen.append, raising=False)  # under PyTorch's own check
    with distributed.joined(choose_device(name)):
        assert chosen == [0]


def test_processes_do_not_share_a_gpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda:1")
    monkeypatch.setattr("torch.distributed.is_torchelastic_launched", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(BackendError, match="--device cuda:0: 2 processes cannot share one GPU; use cuda or auto"):
        choose_device("cuda:0")


def test_on_a_gpu_fp32_is_fp32_and_cudnn_takes_its_fastest_algorithm(monkeypatch) -> None:
    """Whoever has chosen a device has it decided: training, evaluation, ablations and figures."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = True, True, False
    choose_device("cpu")
    assert (matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark) == (True, True, False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    choose_device("cuda")
    assert (matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark) == (False, False, True)


@pytest.mark.parametrize(
    ("cores", "count", "workers"), [(1, 1, 0), (2, 1, 1), (16, 1, 15), (64, 1, 16), (16, 8, 1), (4, 4, 0)]
)
def test_processes_share_the_cores_for_their_workers(cores, count, workers, monkeypatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(count))
    assert default_workers(small_settings()) == workers
    assert default_workers(small_settings("data.cache=true")) == 0
