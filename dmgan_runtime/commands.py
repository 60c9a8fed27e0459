"""What every command shares: trouble is a message and an exit code, never a traceback."""

from __future__ import annotations

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
)

_USER_MISTAKES = (BundleError, CaptionError, BackendError, SettingsError, DataError, CheckpointError)


class _UserMistake(click.ClickException):
    exit_code = 2


class DmganCommand(click.Command):
    """A command that prints an error's message and exits: 2 for a user's mistake, 1 for other trouble.

    An error of the system, such as a full disk, is other trouble. Anything else is a defect and keeps its
    traceback.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # click ends in silence when the reader of a pipe, such as `head`, has left
        except (DmganError, OSError) as error:
            failure = _UserMistake if isinstance(error, _USER_MISTAKES) else click.ClickException
            raise failure(str(error)) from error


class DmganGroup(click.Group):
    """A group whose commands are `DmganCommand`s."""

    command_class = DmganCommand
