"""`dmgan-serve`: captions in, images out, over HTTP."""

from __future__ import annotations

import os
from typing import Any

import click

import dmgan_runtime
from dmgan_runtime.cli.common import DmganCommand
from dmgan_runtime.cli.opening import opening_options
from dmgan_runtime.errors import SettingsError, printable, shortened

_COUNT = click.IntRange(min=1)
_LONGEST_LINE = 1000


@click.command(cls=DmganCommand, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.argument("bundles", nargs=-1, metavar="[BUNDLE]...", type=click.Path())
@click.option("--host", default="127.0.0.1", help="Address to listen on; 0.0.0.0 is every one that the machine has.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, help="0 takes any that is free.")
@click.option("--workers", type=_COUNT, default=1, help="Processes, each with models of its own.")
@click.option("--concurrency", type=_COUNT, default=2, help="Requests that a process works on at once.")
@click.option("--queue", type=click.IntRange(min=0), default=32, help="Requests that wait beside them; then 429.")
@click.option("--max-images", type=_COUNT, default=10, help="Images of one request.")
@click.option("--max-prompt", type=_COUNT, default=4000, help="Characters of a caption.")
@click.option("--max-body", type=_COUNT, default=65536, help="Bytes of a request.")
@click.option("--receive-timeout", type=_COUNT, default=10, help="Seconds in which a whole request must arrive.")
@click.option("--answer-timeout", type=_COUNT, default=300, help="Seconds in which its answer must be made and taken.")
@click.option("--idle-timeout", type=_COUNT, default=5, help="Seconds between two requests of a connection.")
@click.option("--shutdown-timeout", type=_COUNT, default=30, help="Seconds for what runs at SIGTERM.")
@click.option(
    "--api-key",
    envvar="DMGAN_API_KEY",
    show_envvar=True,
    show_default=False,
    help="What clients must send to use /v1. Rather set the variable: others can see a command line.",
)
@click.option("--cors-origin", "cors_origins", multiple=True, help="A page whose scripts may ask; repeat it for more.")
@click.option("--metadata/--no-metadata", default=True, help="Write caption and seed into PNGs.")
@opening_options
@click.version_option(dmgan_runtime.__version__, prog_name="dmgan-serve")
def main(
    bundles: tuple[str, ...],
    host: str,
    port: int,
    workers: int,
    concurrency: int,
    queue: int,
    max_images: int,
    max_prompt: int,
    max_body: int,
    receive_timeout: int,
    answer_timeout: int,
    idle_timeout: int,
    shutdown_timeout: int,
    api_key: str | None,
    cors_origins: tuple[str, ...],
    metadata: bool,
    **opening: Any,
) -> None:
    """Serve BUNDLEs by OpenAI's image protocol, with a page to play on.

    A BUNDLE is a folder or .zip that dmgan-export wrote, or the name of a model that comes with dmgan, which is also
    what is served if there is none. Requests name a model by its bundle's name; the others get the first.

    /health/ready answers 200 once each bundle generated here what it generated at export, /metrics is for Prometheus,
    and logs are JSON, a line each.

    Exit status: 0 after SIGTERM, when what ran was finished; 2 for a mistake in what was asked, 1 for other trouble.
    """
    try:
        from dmgan_runtime.server.run import ServeOptions, serve
        from dmgan_runtime.server.settings import ServerSettings
        from dmgan_runtime.server.transport import Timeouts
    except ModuleNotFoundError as error:
        raise SettingsError(
            f'dmgan-serve needs {error.name}, which is not installed; pip install "dmgan[serve]"'
        ) from error
    if api_key is None:  # for click a variable that is empty is not there, and the server would ask for no key
        api_key = os.environ.get("DMGAN_API_KEY")
    settings = ServerSettings(
        concurrency=concurrency,
        queue=queue,
        max_images=max_images,
        max_prompt_characters=max_prompt,
        max_body_bytes=max_body,
        api_key=api_key,
        cors_origins=cors_origins,
        metadata=metadata,
    )
    timeouts = Timeouts(receive=receive_timeout, answer=answer_timeout, idle=idle_timeout, shutdown=shutdown_timeout)
    serve(ServeOptions(bundles or (None,), opening, settings, timeouts), host, port, workers, _report)


def _report(line: str) -> None:
    click.echo(printable(shortened(line, _LONGEST_LINE)))


if __name__ == "__main__":
    main(prog_name="dmgan-serve")
