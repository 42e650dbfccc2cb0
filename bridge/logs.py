"""Logs: one JSON object per line on stderr, or text for people at a terminal; redacted in either form.

Code logs through ``logging.getLogger("pgcheckout")`` as any library does. What a request or job is about is added here.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO
from uuid import UUID

import stamina.instrumentation

from bridge.redaction import Redactor, secrets_of
from bridge.settings import Settings

__all__ = ["about_request", "about_session", "configure", "formatter", "keep_addresses_private", "working_on"]

_encode = json.JSONEncoder().encode
_about: ContextVar[Mapping[str, str]] = ContextVar("about")  # what the lines of this task are about
# all that a record has by itself; and uvicorn's, which is the message once more
_ORDINARY = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


def about_request(request_id: str) -> None:
    """What this task logs from here on belongs to this request, and to no session yet."""
    _about.set({"request_id": request_id})


def about_session(session_id: UUID | None) -> None:
    """What this task logs from here on belongs to this session, too. The first one stays: others are looked at for its
    sake."""
    about = _about.get({})
    if session_id and "session_id" not in about:
        _about.set({**about, "session_id": str(session_id)})


@contextmanager
def working_on(session_id: UUID) -> Iterator[None]:
    """What this task logs in the block belongs to this session."""
    before = _about.set({**_about.get({}), "session_id": str(session_id)})
    try:
        yield
    finally:
        _about.reset(before)


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
    return _Text(redact) if text else _Json(redact)


class _Json(logging.Formatter):
    """One object per line. Called for every request, so a plain line costs little more than its redaction."""

    def __init__(self, redact: Redactor) -> None:
        super().__init__()
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        try:
            event = self._redact.event(self._event(record))
            # nothing else may be added after the redaction; the time alone would take it as long as all the rest
            return self._render({"event": event["event"], **_said_by(record), **event})
        except Exception as error:  # noqa: BLE001 # logging would print the arguments as they are
            broken = {
                "event": f"a line could not be logged: {type(error).__name__}", **_said_by(record),
                "line": f"{record.filename}:{record.lineno}",
            }  # fmt: skip
            return json.dumps(broken)

    def _event(self, record: logging.LogRecord) -> Mapping[str, Any]:
        more = {name: value for name, value in vars(record).items() if name not in _ORDINARY}
        event = {"event": record.getMessage(), **_about.get({}), **more}
        if record.stack_info:
            event["stack_info"] = record.stack_info
        if record.exc_info and record.exc_info[1]:
            event["exception"] = self._trace(record.exc_info)
        return event

    def _trace(self, error: Any) -> Any:
        try:
            # 2 MB, which a server that meets no surprise can do without
            from structlog.tracebacks import ExceptionDictTransformer  # noqa: PLC0415
        except (ImportError, OSError):  # the surprise may be that no more files can be opened
            return self.formatException(error)
        return ExceptionDictTransformer(show_locals=False)(error)

    def _render(self, event: dict[str, Any]) -> str:
        return _encode(event)  # the redaction has left nothing but what JSON knows


class _Text(_Json):
    def __init__(self, redact: Redactor) -> None:
        from structlog import dev  # noqa: PLC0415 # see _Json

        super().__init__(redact)
        self._renderer = dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=dev.plain_traceback)

    def _trace(self, error: Any) -> Any:
        return self.formatException(error)

    def _render(self, event: dict[str, Any]) -> str:
        return self._renderer(None, "", event)


def _said_by(record: logging.LogRecord) -> dict[str, str]:
    return {
        "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
        "level": record.levelname.lower(),
        "logger": record.name,
    }


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
