"""Letters: what the database's outbox wants told, written from templates and sent by SMTP."""

from bridge.mail.links import ResumeLinks
from bridge.mail.post import Post
from bridge.mail.writing import Writer

__all__ = ["Post", "ResumeLinks", "Writer"]
