"""The engines that can serve a bundle. Each is imported only when it is considered."""

from __future__ import annotations

from dmgan_runtime.backends.selection import BACKENDS, open_backend

__all__ = ["BACKENDS", "open_backend"]
