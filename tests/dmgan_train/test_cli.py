import json
import shutil

import pytest
import torch
from click.testing import CliRunner

from dmgan_train.checkpoint import load_checkpoint
from dmgan_train.cli import main
from dmgan_train.run_folder import RunFolder
from tests.dmgan_train.data.drawing import write_coco
from tests.training import SMALL


def invoke(*arguments: object):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


COMMANDS = ["fit", "pretrain", "sample", "prepare", "evaluate", "figure", "ablate", "report"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command) -> None:
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 5


def test_help_shows_defaults_and_choices() -> None:
    result = invoke("fit", "--help")
    assert "[birds|coco|emoji|emoji-256|tiny]" in result.output
    assert "[default: birds; of a run that has begun, its own]" in " ".join(result.output.split())


def test_a_dry_run_shows_the_plan_and_leaves_nothing(images, tmp_path) -> None:
    flags = [flag for override in SMALL for flag in ("--set", override)]
    result = invoke("fit", "--preset", "tiny", "--data", images, "--run", tmp_path / "run", "--dry-run", *flags)
    assert result.exit_code == 0, result.output
    assert "8 training and 4 test images, 13 words" in result.output
    assert "8/16/32 pixels" in result.output
    assert "batch_size: 4" in result.output
    assert not (tmp_path / "run").exists()


def test_the_plan_counts_what_can_be_used_and_names_what_is_not_read(images, tmp_path) -> None:
    root = shutil.copytree(images, tmp_path / "squares")
    lines = [json.loads(line) for line in (root / "metadata.jsonl").read_text().splitlines()]
    missing, empty, *_ = (root / line["file_name"] for line in lines if line.get("split") != "test")
    missing.unlink()
    empty.write_bytes(b"")
    write_coco(root)
    flags = [flag for override in SMALL for flag in ("--set", override)]
    command = ["fit", "--preset", "tiny", "--data", root, "--source", "image_folder", "--run", tmp_path / "run"]
    result = invoke(*command, "--dry-run", *flags)
    assert result.exit_code == 0, result.output
    assert "image_folder, 6 of 8 training and 4 test images" in result.output
    assert "       annotations/captions_val2014.json is not read; --source coco would read it\n" in result.output


def test_a_run_goes_on_in_the_precision_that_it_began_with(run, images, tmp_path, monkeypatch) -> None:
    """It began on another machine, in fp32: `auto`, the preset's, comes to bf16 here for a new run alone."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    old = RunFolder(shutil.copytree(run.root, tmp_path / "old"))
    auto = (*SMALL, "damsm.precision=auto", "gan.precision=auto")
    command = ["fit", "--preset", "tiny", "--data", images, "--workers", 0]
    command += [flag for override in auto for flag in ("--set", override)]
    result = invoke(*command, "--run", old.root)
    assert result.exit_code == 0, result.output
    assert old.settings() == run.settings()
    assert "damsm  is finished\n" in result.output
    assert result.output.count("in fp32") == 1
    result = invoke(*command, "--run", tmp_path / "new", "--dry-run")
    assert result.output.count("precision: bf16") == result.output.count("in bf16") == 2
    old.settings_file.write_text(old.settings_file.read_text().replace("precision: fp32", "precision: bf16"))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False})
    result = invoke(*command, "--run", old.root)
    assert result.exit_code == 2
    assert "this run began with damsm.precision=bf16, for which the cpu here has no instructions" in result.output


def test_the_papers_plan_has_the_papers_numbers(images, tmp_path) -> None:
    small = ("--set", "damsm.batch_size=8", "--set", "gan.batch_size=8")
    result = invoke("fit", "--data", images, "--run", tmp_path / "run", "--dry-run", *small)
    assert "64/128/256 pixels, generator 21.4 M parameters" in result.output


def test_the_whole_command_trains(images, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    flags = [flag for override in (*SMALL, "gan.precision=auto") for flag in ("--set", override)]
    result = invoke("fit", "--preset", "tiny", "--data", images, "--run", tmp_path / "r", "--workers", 0, *flags)
    assert result.exit_code == 0, result.output
    assert f"dmgan-export {tmp_path / 'r'}" in result.output
    assert RunFolder(tmp_path / "r").settings().gan.precision == "fp32"  # what `auto` came to
    picture = tmp_path / "sample.png"
    result = invoke("sample", tmp_path / "r", "a red square", "a blue square", "-o", picture, "--seed", 3)
    assert result.exit_code == 0, result.output
    assert "2 captions, seed 3, generator of step 4" in result.output
    assert picture.stat().st_size > 100


@pytest.fixture
def begun(run, images, tmp_path) -> RunFolder:
    """A copy of a run, whose data lie in a folder of another name."""
    shutil.copytree(images, tmp_path / "elsewhere")
    return RunFolder(shutil.copytree(run.root, tmp_path / "run"))


def test_a_run_goes_on_with_its_own_settings_and_data(begun) -> None:
    result = invoke("fit", "--run", begun.root, "--workers", 0, "--set", "gan.steps=5")
    assert result.exit_code == 0, result.output
    assert load_checkpoint(begun.checkpoint("gan"), "gan")["step"] == 5
    assert begun.settings().gan.steps == 5
    assert "the same as in" not in result.output
    sizes = ("--set", "damsm.batch_size=6", "--set", "gan.batch_size=4")
    result = invoke("fit", "--run", begun.root, "--preset", "tiny", *sizes)
    assert result.exit_code == 2
    assert "which `fit` takes without --preset, --recipe and --set" in result.output


def test_of_preset_and_recipe_the_one_that_is_not_named_is_the_runs_own(begun) -> None:
    sizes = ("--set", "damsm.batch_size=6", "--set", "gan.batch_size=4")
    result = invoke("fit", "--run", begun.root, "--recipe", "preset", "--dry-run", *sizes)
    assert result.exit_code == 0, result.output
    assert result.output.startswith("preset tiny, recipe preset")


def test_data_that_were_moved_are_the_same_and_others_are_not(begun, tmp_path) -> None:
    moved = tmp_path / "elsewhere"
    result = invoke("fit", "--run", begun.root, "--data", moved, "--workers", 0)
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.output.splitlines() if "the same as in" in line]
    assert str(moved) not in line
    assert begun.provenance()["data"]["name"] == "elsewhere"
    before, _, after = (moved / "metadata.jsonl").read_text().rpartition("a red square on white")
    (moved / "metadata.jsonl").write_text(f"{before}a square on white red{after}")
    result = invoke("fit", "--run", begun.root, "--workers", 0)
    assert result.exit_code == 2
    assert "the data set was" in result.output
    shutil.rmtree(moved)
    result = invoke("fit", "--run", begun.root)
    assert result.exit_code == 2
    assert "not there any more; name their folder with --data" in result.output


@pytest.mark.parametrize(("replaced", "status"), [("a red square on white", 0), ("a square on white", 2)])
def test_a_run_that_is_older_than_the_digest_knows_its_data_by_what_it_kept(begun, tmp_path, replaced, status) -> None:
    began = begun.provenance()
    del began["data"]["sha256"]
    begun.provenance_file.write_text(json.dumps(began))
    begun.data_file.unlink()
    kept = begun.captions_file.read_text()
    begun.captions_file.write_text(kept.replace("a red square on white", replaced))
    result = invoke("fit", "--run", begun.root, "--data", tmp_path / "elsewhere", "--workers", 0)
    assert result.exit_code == status, result.output
    result = invoke("fit", "--run", begun.root)
    assert ("does not say where its data are" in result.output) == (status == 2)


def test_steps_that_the_epochs_do_not_allow_are_said(images, tmp_path) -> None:
    flags = [flag for override in SMALL for flag in ("--set", override)]
    capped = ("--set", "gan.steps=120", "--set", "gan.epochs=10")
    result = invoke(
        "fit", "--preset", "tiny", "--data", images, "--run", tmp_path / "run", "--dry-run", *flags, *capped
    )
    assert "gan    20 steps of 4 images (10 epochs at most)" in result.output
    assert "not 120 (gan.steps): gan.epochs ends it sooner; raise that too" in result.output


def test_a_new_run_needs_data(tmp_path) -> None:
    result = invoke("fit", "--run", tmp_path / "run")
    assert result.exit_code == 2
    assert "name their folder with --data" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "gan.batch_sise=3"], "did you mean 'batch_size'"),
        (["--device", "cuda"], "use --device cpu"),
        (["--device", "tpu9"], "use auto, cpu or cuda"),
        (["--source", "coco"], "annotations"),
        (["--config", "missing.yaml"], "missing.yaml"),
        (
            ["--dry-run", "--set", "model.stages=5", "--set", "gan.warm_up_steps=[0, 0, 0]"],
            "gan.warm_up_steps has 3 entries and model.stages is 5",
        ),
    ],
)
def test_a_users_mistake_is_a_message_and_exit_code_2(images, tmp_path, arguments, message) -> None:
    result = invoke("fit", "--preset", "tiny", "--data", images, "--run", tmp_path / "run", *arguments)
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert "Traceback" not in result.output


def test_a_run_without_a_generator_says_what_to_do(run, tmp_path) -> None:
    for name in ("settings.yaml", "vocab.json"):
        (tmp_path / name).write_bytes((run.root / name).read_bytes())
    result = invoke("sample", tmp_path, "a red square", "-o", tmp_path / "s.png")
    assert result.exit_code == 2
    assert "train first" in result.output


def test_unknown_words_alone_are_refused(run, tmp_path) -> None:
    result = invoke("sample", run.root, "zebra", "-o", tmp_path / "s.png")
    assert result.exit_code == 2
    assert "zebra" in result.output
