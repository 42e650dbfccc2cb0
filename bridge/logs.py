"""Logs: one JSON object per line on stderr, or text for people at a terminal; redacted in either form.

Code logs through ``logging.getLogger("pgcheckout")`` as any library does. What a request or job is about is added here.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TextIO
from uuid import UUID

import stamina.instrumentation
import structlog
from structlog.contextvars import bind_contextvars, bound_contextvars, clear_contextvars, get_contextvars
from structlog.typing import EventDict, WrappedLogger

from bridge.redaction import Redactor, secrets_of
from bridge.settings import Settings

__all__ = ["about_request", "about_session", "configure", "formatter", "keep_addresses_private", "working_on"]

_encode = json.JSONEncoder().encode


def about_request(request_id: str) -> None:
    """What this task logs from here on belongs to this request, and to no session yet."""
    clear_contextvars()
    bind_contextvars(request_id=request_id)


def about_session(session_id: UUID | None) -> None:
    """What this task logs from here on belongs to this session, too. The first one stays: others are looked at for its
    sake."""
    if session_id and "session_id" not in get_contextvars():
        bind_contextvars(session_id=str(session_id))


@contextmanager
def working_on(session_id: UUID) -> Iterator[None]:
    """What this task logs in the block belongs to this session."""
    with bound_contextvars(session_id=str(session_id)):
        yield


def keep_addresses_private() -> None:
    """httpx says each address it asks; some providers take credentials there."""
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)


def configure(settings: Settings, *, level: str | None = None) -> None:
    """Log as the settings say, from now on and whoever logs; ``level`` instead of theirs."""
    text = settings.log_format == "console" or (settings.log_format == "auto" and sys.stderr.isatty())
    handler = _Stderr()
    handler.setFormatter(formatter(Redactor(secrets_of(settings)), text=text))
    root = logging.getLogger()
    for old in [known for known in root.handlers if isinstance(known, _Stderr)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel((level or settings.log_level).upper())
    keep_addresses_private()
    # where structlog is installed, stamina would write to stdout by itself
    stamina.instrumentation.set_on_retry_hooks([stamina.instrumentation.LoggingOnRetryHook])
    logging.captureWarnings(capture=True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        # we have a line of our own for each request, without what an address may carry
        logging.getLogger(name).propagate = name != "uvicorn.access"


def formatter(redact: Redactor, *, text: bool = False) -> logging.Formatter:
    """Formats the records of every logger: JSON, or text for people."""
    if text:
        exception: structlog.typing.Processor = structlog.processors.format_exc_info
        renderer: structlog.typing.Processor = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    else:
        transformer = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        exception = structlog.processors.ExceptionRenderer(transformer)
        renderer = _to_json
    return _Formatter(
        foreign_pre_chain=[_begin, structlog.contextvars.merge_contextvars, structlog.stdlib.ExtraAdder(), exception],
        # nothing may be added after the redaction
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, redact, renderer],
    )


def _begin(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    record: logging.LogRecord = event["_record"]
    record.__dict__.pop("color_message", None)  # uvicorn's: the message once more
    event["timestamp"] = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds")
    event["level"] = record.levelname.lower()
    event["logger"] = record.name
    return event


def _to_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    return _encode(event)  # the redaction has left nothing but what JSON knows


class _Formatter(structlog.stdlib.ProcessorFormatter):
    def format(self, record: logging.LogRecord) -> str:
        try:
            return super().format(record)
        except Exception as error:  # noqa: BLE001 # logging would print the arguments as they are
            broken = {
                "event": f"a line could not be logged: {type(error).__name__}",
                "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
                "level": "error", "logger": record.name, "line": f"{record.filename}:{record.lineno}",
            }  # fmt: skip
            return json.dumps(broken)


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to what is stderr at the time."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, _stream: TextIO) -> None:
        raise AttributeError("it is always stderr")
