import pytest
from click.testing import CliRunner

from dmgan_train.data.prepare.cli import prepare
from tests.dmgan_train.data.prepare.packages import write_emoji_packages


@pytest.fixture
def invoke():
    return lambda *arguments: CliRunner().invoke(prepare, [str(argument) for argument in arguments])


def test_emoji_are_prepared_and_counted(tmp_path, invoke):
    tarballs = write_emoji_packages(tmp_path)
    given = [argument for tarball in tarballs for argument in ("--tarball", tarball)]
    result = invoke("emoji", tmp_path / "emoji", *given, "--resolution", 16)
    assert result.exit_code == 0
    assert f"{tmp_path / 'emoji'}: 124 drawings to train on, 24 held out, 15 concepts" in result.stdout
    assert "15/15 emoji" in result.stderr
    assert [len(list((tmp_path / "emoji" / "images" / style).iterdir())) for style in ("3d", "flat")] == [75, 73]


def test_one_style_needs_no_package_of_the_other(tmp_path, invoke):
    drawings, _, names = write_emoji_packages(tmp_path)
    given = ["--tarball", drawings, "--tarball", names, "--style", "3d", "--resolution", 16]
    result = invoke("emoji", tmp_path / "emoji", *given)
    assert "63 drawings to train on, 12 held out, 15 concepts" in result.stdout


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
