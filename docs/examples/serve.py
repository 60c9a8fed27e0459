"""A web endpoint: GET /?caption=a+red+bird&seed=7 answers with a PNG.

    python serve.py BUNDLE [--port 8000] [--threads 4]

Only the standard library and dmgan. For many users put a proxy in front that ends slow connections.
"""

import argparse
import io
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs, urlsplit

from dmgan_runtime import CaptionError, EngineError, Generator, SettingsError

SECONDS_TO_READ_A_REQUEST = 10


class Handler(BaseHTTPRequestHandler):
    """Answers one request, in a thread of the pool."""

    timeout = SECONDS_TO_READ_A_REQUEST
    server: "PoolServer"

    def do_GET(self) -> None:
        """Paints the caption of the query."""
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        if url.path == "/health":
            self.answer(200, "text/plain", b"ok\n")
            return
        try:
            seed = int(query["seed"][0]) if "seed" in query else None
            (generation,) = self.server.generator.generate(query.get("caption", [""])[0], seed=seed)
        except (CaptionError, SettingsError, ValueError) as error:  # what the user can mend
            self.answer(400, "text/plain", f"{error}\n".encode())
        except EngineError as error:  # among them: the generator was closed because the server stops
            self.answer(503, "text/plain", f"{error}\n".encode())
        else:
            content = io.BytesIO()
            generation.image.save(content, "PNG")
            unknown = {"X-Unknown-Words": " ".join(generation.unknown_words)} if generation.unknown_words else {}
            self.answer(200, "image/png", content.getvalue(), {"X-Seed": str(generation.seed), **unknown})

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
        super().__init__(("127.0.0.1", port), Handler)
        self.generator = generator
        self.pool = ThreadPoolExecutor(threads)

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
    """Serves until it is told to stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--threads", type=int, default=4)
    arguments = parser.parse_args()

    # The with block closes in order: first the server, which lets its requests finish, then the generator.
    with Generator.open(arguments.bundle) as generator:
        generator.warm_up([1])
        with PoolServer(arguments.port, generator, arguments.threads) as server:
            # shutdown() waits for the loop that this thread runs, so another thread has to call it.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
            print(
                f"http://127.0.0.1:{server.server_port}/?caption=a+red+bird with {generator.active.reason}", flush=True
            )
            server.serve_forever()


if __name__ == "__main__":
    main()
