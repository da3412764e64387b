"""Whether an answer belongs to the request, by its self link."""

from __future__ import annotations

from bulkfetch.billing.links import is_target, target_of
from bulkfetch.billing.transfers import Transfer
from bulkfetch.decoding.envelope import Envelope
from bulkfetch.errors import MisdirectedError
from bulkfetch.partnercenter.ahead import Fetcher
from bulkfetch.words import printable

_SHOWN = 200


def check_self_link(envelope: Envelope, transfer: Transfer, fetcher: Fetcher) -> None:
    """Raise MisdirectedError if the self link of a page names other line items than `transfer`.

    A link of a shape that is not known proves nothing. It is noted in the log, once for each
    detail.
    """
    if envelope.self_link is None:
        return
    target = target_of(envelope.self_link.uri)
    if target is None:
        if transfer.detail_name not in fetcher.odd_links:
            fetcher.odd_links.add(transfer.detail_name)
            link = printable(envelope.self_link.uri)[:_SHOWN]
            fetcher.session.log.note("self_link_unknown", transfer=str(transfer), link=link)
    elif not is_target(target, transfer):
        raise MisdirectedError(
            f"line items of {transfer} were asked for, but the self link of the answer is that of "
            f"{target}"
        )
