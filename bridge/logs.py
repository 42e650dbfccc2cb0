"""What libraries log by themselves and must not: addresses carry credentials, names and card digits."""

from __future__ import annotations

import logging

__all__ = ["keep_addresses_private"]


def keep_addresses_private() -> None:
    """httpx says each address it asks, some providers take credentials there; uvicorn says each query it gets."""
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("uvicorn.access").addFilter(_without_query)


def _without_query(record: logging.LogRecord) -> bool:
    # uvicorn passes (client, method, path with query, HTTP version, status)
    if isinstance(record.args, tuple) and len(record.args) == 5:
        client, method, path, *rest = record.args
        record.args = (client, method, str(path).partition("?")[0], *rest)
    return True
