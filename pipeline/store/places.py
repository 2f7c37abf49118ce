"""Where artifacts lie: `<root>/<stage>/<first 16 digits of the key>`, and which folder can be a store's root."""

import os
import re
from pathlib import Path

from pipeline.errors import UserError, one_line
from pipeline.files import printable
from pipeline.store.remote import masked

KEY_DIGITS = 16
LONGEST_PATH = 4095  # bytes, Linux
LONGEST_BELOW = 600  # bytes that stages need for the names in their artifacts (ours)


def check_root(root: Path) -> None:
    """UserError if `root` cannot be a store's folder. It need not exist."""
    reason = None
    try:
        if re.match(r"[a-z][a-z0-9+.-]+:/", str(root)):
            url = masked(str(root).replace(":/", "://", 1))
            raise UserError(f"the store {url} is no folder: set machine.remote to the URL, machine.store to a folder")
        if "\0" in str(root):
            reason = "its name has a NUL"
        elif not root.is_dir() and root.exists():
            reason = "it is no folder"
        elif len(os.fsencode(root.absolute())) + LONGEST_BELOW > LONGEST_PATH:
            reason = f"its path is too long, {LONGEST_PATH - LONGEST_BELOW} bytes are possible"
        elif file := next((path for path in root.absolute().parents if path.exists() and not path.is_dir()), None):
            reason = f"{file} is no folder"
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or one_line(error)
    if reason is not None:
        shown = printable(root)
        shown = shown if len(shown) <= 120 else f"{shown[:117]}..."
        raise UserError(f"cannot use the store {shown}: {reason}; set machine.store to a folder that you may write to")


def is_digits(name: str) -> bool:
    """Whether a folder is named as a finished artifact's."""
    return re.fullmatch(f"[0-9a-f]{{{KEY_DIGITS}}}", name) is not None
