import pytest
from click.testing import CliRunner

from dmgan_train.data.cli import prepare
from tests.dmgan_train.data.packages import write_emoji_packages


@pytest.fixture
def invoke():
    return lambda *arguments: CliRunner().invoke(prepare, [str(argument) for argument in arguments])


def test_emoji_are_prepared_and_counted(tmp_path, invoke):
    tarballs = write_emoji_packages(tmp_path)
    result = invoke("emoji", tmp_path / "emoji", "--tarballs", *tarballs, "--resolution", 16)
    assert result.exit_code == 0
    assert f"{tmp_path / 'emoji'}: 63 drawings to train on, 12 held out, 15 concepts" in result.stdout
    assert "15/15 emoji" in result.stderr
    assert len(list((tmp_path / "emoji" / "images").iterdir())) == 75


def test_a_mistake_is_a_message_and_exit_code_2(tmp_path, invoke):
    (tmp_path / "emoji").mkdir()
    (tmp_path / "emoji" / "mine").touch()
    result = invoke("emoji", tmp_path / "emoji")
    assert result.exit_code == 2
    assert "is already there; remove it" in result.stderr
    assert "Traceback" not in result.stderr


def test_birds_are_painted(tmp_path, invoke):
    result = invoke("synthetic", tmp_path / "birds", "--count", 40, "--seed", 1)
    assert result.exit_code == 0
    assert "40 painted birds" in result.stdout
    assert "40/40" in result.stderr
