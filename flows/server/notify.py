"""Telling people: through a notification block of the Prefect server, which holds the addresses and the secrets."""

import sys

from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.core import Block

from pipeline.errors import UserError, one_line


def notification_block(reference: str) -> NotificationBlock:
    """The block that is named as block-type/name, for instance slack-webhook/team. UserError if there is none."""
    wanted = "wanted block-type/name of a notification block, for instance slack-webhook/team"
    if reference.count("/") != 1:
        raise UserError(f"notify {reference}: {wanted}")
    try:
        block = Block.load(reference)
    except ValueError as error:
        raise UserError(
            f"notify {reference}: the Prefect server has no such block; make it on the server's page 'Blocks'"
        ) from error
    if not isinstance(block, NotificationBlock):
        raise UserError(f"notify {reference} is a {type(block).__name__}: {wanted}")
    return block


def send(block: NotificationBlock, text: str, subject: str) -> None:
    """Sends; where that fails it says so and no more, as what it would have told is known here."""
    try:
        _ = block.notify(text, subject)  # no event loop runs here, so it is sent at once
    except Exception as error:  # whatever stands between here and the reader
        print(f"flexseg: the notification was not sent: {one_line(error)}", file=sys.stderr)
