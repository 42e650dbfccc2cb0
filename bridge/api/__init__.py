"""The HTTP face of the bridge."""

from bridge.api.app import create_app

__all__ = ["create_app"]
