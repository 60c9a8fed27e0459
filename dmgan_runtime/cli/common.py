"""What every command shares: errors become a message and an exit status, never a traceback."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from dmgan_runtime.errors import (
    BackendError,
    BundleError,
    CaptionError,
    CheckpointError,
    DataError,
    DmganError,
    SettingsError,
    StoppedError,
)

_USER_MISTAKES = (BundleError, CaptionError, BackendError, SettingsError, DataError, CheckpointError)


class _UserMistake(click.ClickException):
    exit_code = 2


class DmganCommand(click.Command):
    """A command that prints an error's message and exits: 2 for a user's mistake, 1 for other trouble.

    An error of the system, such as a full disk, is other trouble. A training that was asked to stop exits with 128 and
    the number of the signal (130 for Ctrl-C, 143 for SIGTERM). Anything else is a defect and keeps its
    traceback.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command."""
        # An output that is not UTF-8 shows what it cannot hold, such as a heart in a caption, as its escape.
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # click ends in silence when the reader of a pipe, such as `head`, has left
        except StoppedError as stop:
            click.echo(str(stop), err=True)
            raise click.exceptions.Exit(128 + stop.number) from stop
        except (DmganError, OSError) as error:
            failure = _UserMistake if isinstance(error, _USER_MISTAKES) else click.ClickException
            raise failure(_as_options(str(error), ctx.command)) from error


def _as_options(message: str, command: click.Command) -> str:
    """A message whose remedies are arguments of Python, such as `device='cpu'`, with the command's options instead."""
    names = {option.name: option.opts[-1] for option in command.params if isinstance(option, click.Option)}
    return re.sub(
        r"\b(\w+)='([^']+)'", lambda found: f"{names[found[1]]} {found[2]}" if found[1] in names else found[0], message
    )


class DmganGroup(click.Group):
    """A group whose commands are `DmganCommand`s."""

    command_class = DmganCommand


def load_command(module: str, extras: Sequence[str], name: str) -> click.Command:
    """The command `main` of a module; ends the process with a message if a package that it needs is missing.

    Args:
        module: Imported here, so that a missing package is a message and not a traceback.
        extras: What `pip install "dmgan[...]"` takes to bring the packages; one of them will do.
        name: What the command is called.
    """
    try:
        command: click.Command = import_module(module).main
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in ("dmgan_runtime", "dmgan_train", "export"):
            raise
        remedy = " or ".join(f'pip install "dmgan[{extra}]"' for extra in extras)
        click.echo(f"Error: {name} needs {error.name}, which is not installed; {remedy}", err=True)
        raise SystemExit(2) from error
    return command


def launch(module: str, extra: str, name: str) -> None:
    """Runs the command `main` of a module; see `load_command`."""
    load_command(module, [extra], name)(prog_name=name)
