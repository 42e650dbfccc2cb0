"""Letters: what the database's outbox wants told, written from templates and sent by SMTP; an operator may have a
webhook, too."""

from bridge.mail.links import ResumeLinks
from bridge.mail.operator import Operator
from bridge.mail.post import Post
from bridge.mail.writing import Writer

__all__ = ["Operator", "Post", "ResumeLinks", "Writer"]
