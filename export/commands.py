"""`dmgan-export`: its commands, each imported only when it is asked for."""

from __future__ import annotations

import click

from dmgan_runtime.backends.registry import PLANNED, find_engine_row
from dmgan_runtime.cli.common import DmganGroup, load_command

DEFAULT_COMMAND = "bundle"
# Engines and repositories need no PyTorch, so a server that has none can make them.
_COMMANDS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "bundle": ("export.cli", ("export,cpu",), "Export a trained RUN, or the authors' weights, as a bundle."),
    "build-engine": (
        "export.engine_cli",
        tuple(find_engine_row(backend).extra for backend in PLANNED),
        "Build engines of TensorRT or MNN from the graphs of a BUNDLE.",
    ),
    "triton": ("export.triton.cli", ("triton",), "Write a model repository of a BUNDLE for Triton Inference Server."),
    "web": ("export.browser.cli", ("export,cpu",), "Write a page that runs a BUNDLE in browsers, for any static host."),
    "vectors": ("export.vectors_cli", ("cpu",), "Write test vectors of a BUNDLE, for readers in other languages."),
}


class _ExportGroup(DmganGroup):
    """A group that runs `bundle` if the first argument is no command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        options = {name for parameter in self.get_params(ctx) for name in parameter.opts}
        if args and args[0] not in options | _COMMANDS.keys():
            args = [DEFAULT_COMMAND, *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, extras, _ = _COMMANDS[cmd_name]
        return load_command(module, extras, f"dmgan-export {cmd_name}")

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, _, summary) in _COMMANDS.items()])


@click.group(cls=_ExportGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="dmgan")
def main() -> None:
    """Turn a trained model into a bundle that dmgan_runtime serves, and a bundle into engines or for other servers.

    `dmgan-export RUN -o BUNDLE` is short for `dmgan-export bundle RUN -o BUNDLE`; `dmgan-export build-engine BUNDLE`
    then builds engines, on any machine that has TensorRT or MNN, and `dmgan-export triton BUNDLE -o models` serves it
    with Triton. Each command has its own --help, once what it needs is installed.
    """
