"""A web endpoint: GET /?caption=red+heart&seed=7&resolution=64 answers with a PNG.

    python serve.py [BUNDLE] [--port 8000] [--threads 4]

Without BUNDLE it serves the model that comes with dmgan. Only the standard library and dmgan; for many users put a
proxy in front that ends slow connections.
"""

import argparse
import io
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qsl, quote, urlsplit

from dmgan_runtime import CaptionError, DmganError, EngineError, Generator, SettingsError

SECONDS_TO_READ_A_REQUEST = 10
MAX_DIGITS = 20


def read_query(text: str) -> tuple[str, dict[str, int]]:
    """The caption of a query, and its numbers as arguments of `generate`."""
    query = dict(parse_qsl(text, keep_blank_values=True))
    caption = query.pop("caption", "")
    for name, value in query.items():
        if name not in ("seed", "resolution"):
            raise SettingsError(f"the parameter {name!r} is unknown; there are caption, seed and resolution")
        if not (value.isascii() and value.isdigit() and len(value) <= MAX_DIGITS):
            raise SettingsError(f"{name} is {value!r}; pass a whole number in digits")
    return caption, {name: int(value) for name, value in query.items()}


class Handler(BaseHTTPRequestHandler):
    """Answers one request, in a thread of the pool."""

    timeout = SECONDS_TO_READ_A_REQUEST
    server: "PoolServer"

    def do_GET(self) -> None:
        """Paints the caption of the query."""
        url = urlsplit(self.path)
        if url.path == "/health":
            self.answer(200, "text/plain", b"ok\n")
            return
        if url.path != "/":
            self.answer(404, "text/plain", b"there are / and /health\n")
            return
        try:
            caption, numbers = read_query(url.query)
            (generation,) = self.server.generator.generate(caption, **numbers)
        except (CaptionError, SettingsError) as error:  # what the user can mend
            self.answer(400, "text/plain", f"{error}\n".encode())
        except EngineError as error:  # among them: the generator was closed because the server stops
            self.answer(503, "text/plain", f"{error}\n".encode())
        else:
            content = io.BytesIO()
            generation.image.save(content, "PNG")
            headers = {"X-Seed": str(generation.seed)}
            if generation.unknown_words:
                headers["X-Unknown-Words"] = quote(" ".join(generation.unknown_words))  # headers are ASCII
            self.answer(200, "image/png", content.getvalue(), headers)

    def answer(self, status: int, kind: str, content: bytes, headers: dict[str, str] | None = None) -> None:
        """Sends a whole answer."""
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


class PoolServer(HTTPServer):
    """Hands each request to a pool: a flood of them waits in line, and does not become a flood of threads."""

    request_queue_size = 128

    def __init__(self, port: int, generator: Generator, threads: int) -> None:
        self.generator = generator
        self.pool = ThreadPoolExecutor(threads)
        super().__init__(("127.0.0.1", port), Handler)

    def process_request(self, request, client_address) -> None:
        """Called by the server's own thread for each connection."""
        self.pool.submit(self.work, request, client_address)

    def work(self, request, client_address) -> None:
        """Runs in the pool."""
        try:
            self.finish_request(request, client_address)
        except Exception:  # noqa: BLE001 - a future would keep it to itself
            self.handle_error(request, client_address)
        finally:
            self.shutdown_request(request)

    def server_close(self) -> None:
        """Takes no more requests, and waits for those that it has."""
        super().server_close()
        self.pool.shutdown()


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", nargs="?")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--threads", type=int, default=4)
    arguments = parser.parse_args()
    try:
        serve(arguments.bundle, arguments.port, arguments.threads)
    except (DmganError, OSError) as error:  # no such bundle, no engine, a port that is taken
        raise SystemExit(f"cannot serve on port {arguments.port}: {error}") from error


def serve(bundle: str | None, port: int, threads: int) -> None:
    """Serves until SIGTERM or SIGINT."""
    # The with block closes in order: first the server, which lets its requests finish, then the generator.
    with Generator.open(bundle) as generator:
        generator.warm_up([1])
        with PoolServer(port, generator, threads) as server:
            # shutdown() waits for the loop that this thread runs, so another thread has to call it.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
            print(f"http://127.0.0.1:{server.server_port}/?caption=red+heart with {generator.active}", flush=True)
            server.serve_forever()


if __name__ == "__main__":
    main()
