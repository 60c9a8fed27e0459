"""The authors' weights begin a run, and training goes on from them."""

import json
import shutil

import pytest
import torch
from click.testing import CliRunner

from dmgan_train.checkpoint import load_checkpoint
from dmgan_train.cli import main
from dmgan_train.models import ImageEncoder
from dmgan_train.models.inception import InceptionTrunk
from dmgan_train.official import load_official_generator
from dmgan_train.run import RunFolder
from tests import golden_data
from tests.training import write_images

WIDTHS = load_official_generator(golden_data.FOLDER / "netG.pth").spec


def settings_of(**changes: object) -> list[str]:
    text = torch.load(golden_data.FOLDER / "text_encoder.pth", weights_only=True)
    values = {
        "model.generator_channels": WIDTHS.generator_channels,
        "model.text_features": WIDTHS.text_features,
        "model.embedding_features": text["encoder.weight"].shape[1],
        "model.noise_features": WIDTHS.noise_features,
        "model.condition_features": WIDTHS.condition_features,
        "model.memory_features": WIDTHS.memory_features,
        "model.residual_blocks": WIDTHS.residual_blocks,
        "gan.discriminator_channels": 2,
        "damsm.batch_size": 2,
        "gan.batch_size": 2,
        "gan.steps": 1,
    }
    return [text for key, value in (values | changes).items() for text in ("--set", f"{key}={value}")]


@pytest.fixture(scope="module")
def image_encoder(tmp_path_factory):
    ours = ImageEncoder(InceptionTrunk(), 299, WIDTHS.text_features, freeze_trunk=True)
    published = {
        key.replace("to_regions", "emb_features").replace("to_global", "emb_cnn_code").removeprefix("trunk."): value
        for key, value in ours.state_dict().items()
    }
    path = tmp_path_factory.mktemp("published") / "image_encoder.pth"
    torch.save(published, path)
    return path


def adopt(run, image_encoder, *, captions="captions.pickle", settings=()):
    files = {"official-generator": "netG.pth", "official-text-encoder": "text_encoder.pth", "captions": captions}
    flags = [text for name, file in files.items() for text in (f"--{name}", str(golden_data.FOLDER / file))]
    settings = settings or settings_of()
    arguments = ["adopt", *flags, "--official-image-encoder", str(image_encoder), *settings, "--run", str(run)]
    return CliRunner().invoke(main, arguments)


def test_training_goes_on_from_the_authors_weights(image_encoder, tmp_path) -> None:
    result = adopt(tmp_path / "run", image_encoder)
    assert result.exit_code == 0, result.output
    assert "Next: python -m dmgan_train fit --preset birds --set model.generator_channels=" in result.output
    other = adopt(tmp_path / "other", image_encoder, settings=(*settings_of(), "--recipe", "small-data"))
    assert "Next: python -m dmgan_train fit --preset birds --recipe small-data --set" in other.output
    assert RunFolder(tmp_path / "other").settings().gan.augmentation
    run, data = RunFolder(tmp_path / "run"), write_images(tmp_path / "squares")
    encoder = load_checkpoint(run.checkpoint("damsm"), "damsm")["text_encoder"]
    words = run.vocabulary().words
    common = ["--data", str(data), "--run", str(run.root), "--workers", "0", "--device", "cpu"]
    result = CliRunner().invoke(main, ["fit", *settings_of(), *common])
    assert result.exit_code == 0, result.output
    state = load_checkpoint(run.checkpoint("gan"), "gan")
    assert state["step"] == 1
    published = load_official_generator(golden_data.FOLDER / "netG.pth").state_dict()
    for name, value in published.items():
        if name.endswith("weight"):
            # One step of Adam moves a weight by its rate at most.
            assert (state["generator"][name] - value).abs().max() <= 2.1e-4, name
    after = load_checkpoint(run.checkpoint("damsm"), "damsm")["text_encoder"]
    assert all(torch.equal(encoder[name], after[name]) for name in encoder)
    assert run.vocabulary().words == words
    assert json.loads(run.provenance_file.read_bytes())["adopted"]["generator"] == "netG.pth"


@pytest.mark.parametrize(
    ("key", "other", "published"), [("residual_blocks", 3, WIDTHS.residual_blocks), ("stages", 5, 3), ("stages", 1, 3)]
)
def test_another_shape_names_the_settings(image_encoder, tmp_path, key, other, published) -> None:
    result = adopt(tmp_path / "run", image_encoder, settings=settings_of(**{f"model.{key}": other}))
    assert result.exit_code == 2
    assert f"another shape than the settings; add --set model.{key}={published}" in result.output
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_overwritten(run, image_encoder, tmp_path) -> None:
    shutil.copytree(run.root, tmp_path / "run")
    result = adopt(tmp_path / "run", image_encoder)
    assert result.exit_code == 2
    assert "is a run already" in result.output
