"""The model card says what the manifest says, in words."""

import shutil

import pytest
import yaml

from dmgan_runtime.manifest import SCHEMA_VERSION, FileEntry, Manifest, ModelSpec, TokenizerEntry
from dmgan_train.evaluation.metrics.protocol import Evaluation, MetricResult
from dmgan_train.run_folder import RunFolder
from export.card import model_card
from export.onnx_file import quiet_exporter
from export.sources import read_model


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> None:
    quiet_exporter()


def test_the_card_states_facts(bundle) -> None:
    card = (bundle / "MODEL_CARD.md").read_text()
    for fact in (
        "# squares",
        "CC0-1.0",
        "8x8, 16x16, 32x32",
        "| data.images | 8 |",
        "| gan_steps | 4 |",
        "None were measured",
        "Training data: not stated",
        "| settings.gan.steps | 4 |",
    ):
        assert fact in card


def test_the_card_says_each_thing_once_and_in_words(bundle) -> None:
    card = (bundle / "MODEL_CARD.md").read_text()
    for python in ("None |", "False", "True", "(0, ", "[]"):
        assert python not in card
    for key in ("settings.model.", "settings.preset", "settings.seed", "| data_license"):
        assert key not in card
    assert "| settings.data.captions_per_image | - |" in card
    assert "| settings.damsm.freeze_trunk | no |" in card
    assert 'dmgan-generate -b BUNDLE "a caption" -o picture.png' in card
    assert "from dmgan_runtime import Generator" in card


def card_of(**facts: object) -> str:
    return model_card(
        Manifest(
            schema_version=SCHEMA_VERSION,
            name=str(facts.pop("name", "squares")),
            license=str(facts.pop("license", "")),
            model=ModelSpec(),
            tokenizer=TokenizerEntry(file=FileEntry(path="vocab.json", bytes=0, sha256="0" * 64), max_words=7),
            graphs=(),
            provenance=facts,
        ),
        words=30,
        aliases=0,
        notes="",
        has_samples=False,
    )


def test_nothing_that_a_card_quotes_breaks_it() -> None:
    card = card_of(note="a | b\nc \\", size=(0, 0, 0), none=[], license="x\n# Injected", name="a\n# b")
    assert "| note | a \\| b c \\\\ |" in card
    assert "| size | 0, 0, 0 |" in card
    assert "| none | none |" in card
    assert not any(line.startswith(("# Injected", "# b")) for line in card.splitlines())


def test_what_was_measured_of_a_run_is_in_its_card(run, tmp_path) -> None:
    measured = MetricResult(name="FID", value=12.5, better="lower", definition="a distance", protocol={"images": 64})
    copy = RunFolder(shutil.copytree(run.root, tmp_path / "run"))
    Evaluation(results={"fid": measured}, protocol={"seed": 3}).write(copy.root / "metrics" / "step-0000004-test.json")
    Evaluation(results={}, protocol={}).write(copy.root / "metrics" / "step-0000002-test.json")
    model = read_model(copy, "squares", "")
    assert list(model.metrics) == ["step-0000004-test"]
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name="squares",
        license="",
        model=model.generator.spec,
        tokenizer=TokenizerEntry(file=FileEntry(path="vocab.json", bytes=0, sha256="0" * 64), max_words=7),
        graphs=(),
        metrics=dict(model.metrics),
    )
    card = model_card(manifest, words=30, aliases=0, notes="Squares only.\n", has_samples=False)
    assert "| FID | 12.5 | lower | - | a distance |" in card
    protocol = yaml.safe_load(card.partition("```yaml\n")[2].partition("```")[0])
    assert protocol == {"all": {"seed": 3}, "fid": {"images": 64}}
    assert "None were measured" not in card
    assert "It knows 30 words" in card
    assert "Squares only.\n\n## Licence" in card
