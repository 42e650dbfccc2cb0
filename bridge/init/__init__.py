"""What ``pgcheckout init`` writes: the settings as an ``.env``, units of systemd, files for containers."""

from __future__ import annotations

from bridge.init.env_file import DOCS, env_text, shown
from bridge.init.files import FILES, file_text
from bridge.init.new_file import is_open_to_git, write_missing, write_new

__all__ = ["DOCS", "FILES", "env_text", "file_text", "is_open_to_git", "shown", "write_missing", "write_new"]
