import pytest
from click.testing import CliRunner

from dmgan_train.cli import main
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
    assert "[birds|coco|emoji|tiny]" in result.output
    assert "[default: birds]" in result.output


def test_a_dry_run_shows_the_plan_and_leaves_nothing(images, tmp_path) -> None:
    flags = [flag for override in SMALL for flag in ("--set", override)]
    result = invoke("fit", "--preset", "tiny", "--data", images, "--run", tmp_path / "run", "--dry-run", *flags)
    assert result.exit_code == 0, result.output
    assert "8 training and 4 test images, 13 words" in result.output
    assert "8/16/32 pixels" in result.output
    assert "batch_size: 4" in result.output
    assert not (tmp_path / "run").exists()


def test_the_papers_plan_has_the_papers_numbers(images, tmp_path) -> None:
    small = ("--set", "damsm.batch_size=8", "--set", "gan.batch_size=8")
    result = invoke("fit", "--data", images, "--run", tmp_path / "run", "--dry-run", *small)
    assert "64/128/256 pixels, generator 21.4 M parameters" in result.output


def test_the_whole_command_trains(images, tmp_path) -> None:
    flags = [flag for override in SMALL for flag in ("--set", override)]
    result = invoke("fit", "--preset", "tiny", "--data", images, "--run", tmp_path / "r", "--workers", 0, *flags)
    assert result.exit_code == 0, result.output
    assert f"dmgan-export {tmp_path / 'r'}" in result.output
    picture = tmp_path / "sample.png"
    result = invoke("sample", tmp_path / "r", "a red square", "a blue square", "-o", picture, "--seed", 3)
    assert result.exit_code == 0, result.output
    assert "2 captions, seed 3, generator of step 4" in result.output
    assert picture.stat().st_size > 100


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
