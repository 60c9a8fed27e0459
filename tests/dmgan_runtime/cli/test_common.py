from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from dmgan_runtime import errors
from dmgan_runtime.cli import common
from dmgan_runtime.cli.common import DmganCommand, DmganGroup


def run(error: BaseException) -> tuple[int, str, BaseException | None]:
    @click.command(cls=DmganCommand)
    def command() -> None:
        raise error

    result = CliRunner().invoke(command)
    return result.exit_code, result.stderr, result.exception


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.BundleError, 2),
        (errors.CaptionError, 2),
        (errors.BackendError, 2),
        (errors.SettingsError, 2),
        (errors.DataError, 2),
        (errors.CheckpointError, 2),
        (errors.EngineError, 1),
        (errors.TrainingError, 1),
        (errors.ExportError, 1),
        (errors.DmganError, 1),
    ],
)
def test_an_error_is_a_message_and_a_code(kind: type[errors.DmganError], code: int) -> None:
    assert run(kind("what, where, remedy"))[:2] == (code, "Error: what, where, remedy\n")


def test_arguments_of_python_become_the_commands_options() -> None:
    @click.command(cls=DmganCommand)
    @click.option("-d", "--device")
    def command(device: str | None) -> None:
        raise errors.BackendError("pass device='cuda' or device='cpu', precision='auto', or device: 'x'")

    stderr = CliRunner().invoke(command).stderr
    assert stderr == "Error: pass --device cuda or --device cpu, precision='auto', or device: 'x'\n"


def test_a_full_disk_is_a_message() -> None:
    code, message, _ = run(OSError(28, "No space left on device", "out.png"))
    assert (code, message) == (1, "Error: [Errno 28] No space left on device: 'out.png'\n")


def test_a_reader_that_left_is_no_news() -> None:
    assert run(BrokenPipeError(32, "Broken pipe"))[:2] == (1, "")


def test_a_defect_keeps_its_traceback() -> None:
    assert isinstance(run(ZeroDivisionError())[2], ZeroDivisionError)


def test_a_groups_commands_are_clean() -> None:
    @click.group(cls=DmganGroup)
    def group() -> None: ...

    @group.command()
    def broken() -> None:
        raise errors.DataError("no data")

    result = CliRunner().invoke(group, ["broken"])
    assert (result.exit_code, result.stderr) == (2, "Error: no data\n")


def test_a_missing_package_names_the_extra(monkeypatch, capsys) -> None:
    def fail(module: str) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(common, "import_module", fail)
    with pytest.raises(SystemExit) as ended:
        common.launch("export.cli", "export,cpu", "dmgan-export")
    assert ended.value.code == 2
    message = 'Error: dmgan-export needs torch, which is not installed; pip install "dmgan[export,cpu]"\n'
    assert capsys.readouterr().err == message


def test_a_defect_of_our_own_is_not_hidden(monkeypatch) -> None:
    def fail(module: str) -> None:
        raise ModuleNotFoundError("No module named 'export.nothing'", name="export.nothing")

    monkeypatch.setattr(common, "import_module", fail)
    with pytest.raises(ModuleNotFoundError):
        common.launch("export.cli", "export,cpu", "dmgan-export")
