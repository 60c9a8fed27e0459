import pytest
import torch
from torch import nn

from dmgan_runtime.errors import CheckpointError
from dmgan_train.models import ImageEncoder
from dmgan_train.models.inception import InceptionTrunk
from dmgan_train.models.trunks import build_trunk, fold_batch_norms, load_trunk_weights


def test_inception_has_the_shapes_that_damsm_wants() -> None:
    trunk = InceptionTrunk().eval()
    with torch.inference_mode():
        regions, pooled = trunk(torch.zeros(1, 3, 299, 299))
    assert (regions.shape, pooled.shape) == ((1, 768, 17, 17), (1, 2048))


def test_inception_has_torchvisions_parameters_but_for_the_heads() -> None:
    # torchvision documents 27,161,264 parameters: 2,049,000 in fc and 3,326,696 in AuxLogits are left out.
    with torch.device("meta"):
        trunk = InceptionTrunk()
    assert sum(parameter.numel() for parameter in trunk.parameters()) == 27_161_264 - 2_049_000 - 3_326_696


def test_inception_weights_come_from_a_file_and_heads_are_ignored(tmp_path) -> None:
    source = InceptionTrunk()
    state = source.state_dict() | {"fc.weight": torch.zeros(1000, 2048), "AuxLogits.conv0.bn.bias": torch.zeros(128)}
    torch.save(state, tmp_path / "inception.pth")
    trunk = InceptionTrunk()
    load_trunk_weights(trunk, str(tmp_path / "inception.pth"))
    key = "Mixed_7c.branch_pool.conv.weight"
    assert torch.equal(trunk.state_dict()[key], source.state_dict()[key])


def test_weights_that_do_not_fit_are_an_error(tmp_path) -> None:
    torch.save({"nothing": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="do not fit InceptionTrunk"):
        load_trunk_weights(InceptionTrunk(), str(tmp_path / "other.pth"))


def test_a_failed_download_names_the_way_round(monkeypatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fail)
    with pytest.raises(CheckpointError, match=r"trunk_weights=FILE"):
        load_trunk_weights(InceptionTrunk(), "pretrained")


def test_efficientnet_knows_pictures() -> None:
    """The packaged weights are there and see: features of two noises are nearer than of a noise and a gradient."""
    trunk = build_trunk("efficientnet_lite0", 64).eval()
    load_trunk_weights(trunk, "pretrained")
    torch.manual_seed(0)
    gradient = torch.linspace(-1, 1, 64).expand(1, 3, 64, 64)
    with torch.inference_mode():
        regions, pooled = trunk(torch.cat([torch.rand(2, 3, 64, 64) * 2 - 1, gradient]))
    assert (regions.shape, pooled.shape) == ((3, 112, 4, 4), (3, 1280))
    near = torch.cosine_similarity(pooled[0], pooled[1], dim=0)
    assert near > torch.cosine_similarity(pooled[0], pooled[2], dim=0) + 0.2


def test_the_small_trunk_tells_where_a_colour_is() -> None:
    trunk = build_trunk("small", 64).eval()
    picture = torch.full((1, 3, 64, 64), -1.0)
    picture[..., :32] = 1.0
    left, right = (trunk(image)[1] for image in (picture, picture.flip(3)))
    assert left.shape == (1, trunk.global_channels)
    assert (left - right).abs().max() > 0.01


def test_the_small_trunk_has_no_pretrained_weights() -> None:
    with pytest.raises(CheckpointError, match="random"):
        load_trunk_weights(build_trunk("small", 32), "pretrained")


def test_a_frozen_trunk_stays_in_evaluation_mode() -> None:
    encoder = ImageEncoder(build_trunk("small", 32), 32, 8, freeze_trunk=True).train()
    before = {key: value.clone() for key, value in encoder.trunk.state_dict().items()}
    features = encoder(torch.randn(2, 3, 16, 16))
    assert (features.regions.shape, features.image.shape) == ((2, 8, 4, 4), (2, 8))
    assert all(torch.equal(before[key], value) for key, value in encoder.trunk.state_dict().items())
    assert {name for name, p in encoder.named_parameters() if p.requires_grad} == {
        "to_regions.weight",
        "to_global.weight",
        "to_global.bias",
    }


@pytest.mark.parametrize(
    ("name", "side", "convolutions"), [("small", 64, 4), ("efficientnet_lite0", 32, 49), ("inception_v3", 75, 94)]
)
def test_folded_batch_norms_change_nothing_that_a_frozen_trunk_computes(name, side, convolutions) -> None:
    torch.manual_seed(0)
    trunk = build_trunk(name, side).train()
    images = torch.rand(4, 3, side, side) * 2 - 1
    with torch.inference_mode():
        trunk(images)  # so that the statistics are not those of the start
        expected = trunk.eval()(images)
        fold_batch_norms(trunk)
        found = trunk(images)
    kinds = [type(module) for module in trunk.modules()]
    assert sum(issubclass(kind, nn.Conv2d) for kind in kinds) == convolutions
    assert nn.BatchNorm2d not in kinds
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-4 * float(one.abs().max()))


def test_a_frozen_trunk_keeps_slow_gradients_out_of_bf16_on_cpus() -> None:
    trunk = build_trunk("efficientnet_lite0", 64).eval()
    fold_batch_norms(trunk)
    types, strided = {}, set()
    for name, module in trunk.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _, __, output, name=name: types.update({name: output.dtype}))
            if module.groups > 1 and module.stride[0] > 1:
                strided.add(name)
    with torch.autocast("cpu", torch.bfloat16):
        regions, _ = trunk(torch.rand(1, 3, 64, 64) * 2 - 1)
    full = {name for name, kind in types.items() if kind == torch.float32}
    assert full == strided
    assert len(full) == 4
    assert regions.dtype == torch.bfloat16
