"""HTTP over the runtime's public API: one ASGI application, which any host of such applications can serve.

For example:

    from dmgan_runtime import Generator
    from dmgan_runtime.server import create_app

    app = create_app(Generator.open("birds.zip"))
"""

from dmgan_runtime.server.app import create_app
from dmgan_runtime.server.settings import ServerSettings

__all__ = ["ServerSettings", "create_app"]
