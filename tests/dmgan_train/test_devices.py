"""Where training runs, and in which precision."""

import pytest
import torch

from dmgan_runtime.errors import BackendError
from dmgan_train import distributed
from dmgan_train.devices import autocast_type, choose_device, decide_arithmetic, default_workers, resolve_precision
from tests.training import small_settings

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")


@pytest.fixture(params=[True, False])
def has_bf16(request, monkeypatch) -> bool:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: request.param)
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


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_auto_takes_bf16_where_there_are_instructions(device, has_bf16) -> None:
    assert autocast_type("fp32", device) is None
    assert autocast_type("auto", device) == (torch.bfloat16 if has_bf16 else None)
    if has_bf16:
        assert autocast_type("bf16", device) == torch.bfloat16
    else:
        with pytest.raises(BackendError, match="no bf16 instructions; use auto"):
            autocast_type("bf16", device)


def test_fp16_is_for_gpus() -> None:
    assert autocast_type("fp16", CUDA) == torch.float16
    with pytest.raises(BackendError, match="for GPUs; use auto or fp32"):
        autocast_type("fp16", CPU)


def test_a_run_keeps_to_what_auto_came_to(has_bf16) -> None:
    settings = resolve_precision(small_settings("gan.precision=auto"), CPU)
    assert settings.gan.precision == ("bf16" if has_bf16 else "fp32")
    assert resolve_precision(small_settings("gan.precision=fp16"), CUDA).gan.precision == "fp16"
    own = ("damsm.precision=auto", "damsm.trunk=efficientnet_lite0", "damsm.freeze_trunk=true")
    assert resolve_precision(small_settings(*own), CPU).damsm.precision == ("bf16" if has_bf16 else "fp32")
    if not has_bf16:
        with pytest.raises(BackendError, match=r"^damsm.precision is bf16, and the cpu here"):
            resolve_precision(small_settings("damsm.precision=bf16"), CPU)


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


def test_on_a_gpu_fp32_is_fp32_and_cudnn_takes_its_fastest_algorithm() -> None:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    try:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = True, True, False
        decide_arithmetic(CPU)
        assert (matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark) == (True, True, False)
        decide_arithmetic(CUDA)
        assert (matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark) == (False, False, True)
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before


@pytest.mark.parametrize(
    ("cores", "count", "workers"), [(1, 1, 0), (2, 1, 1), (16, 1, 15), (64, 1, 16), (16, 8, 1), (4, 4, 0)]
)
def test_processes_share_the_cores_for_their_workers(cores, count, workers, monkeypatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(count))
    assert default_workers(small_settings()) == workers
    assert default_workers(small_settings("data.cache=true")) == 0
