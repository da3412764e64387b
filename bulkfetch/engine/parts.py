"""Plans the line items of a tenant as parts, and reads one part, in any process."""

from __future__ import annotations

from typing import Unpack

import anyio
import pyarrow as pa

from bulkfetch.billing.parts import Part
from bulkfetch.client import Client
from bulkfetch.runs.export import refuse_in_event_loop
from bulkfetch.runs.selection import ExportKeywords, Selection, split_keywords
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.keywords import SettingsKeywords
from bulkfetch.settings.sources import read_settings
from bulkfetch.wire.limits import Limit


def plan(
    settings: Settings | None = None,
    *,
    selection: Selection | None = None,
    allow_empty: bool = False,
    split: bool = True,
    **keywords: Unpack[ExportKeywords],
) -> list[Part]:
    """Plan parts as `plan_async` does, for scripts.

    Raises BulkfetchError where an event loop is running, as in a notebook: there, await
    `plan_async`.
    """
    selected, given = split_keywords(selection, keywords)
    settings = read_settings(settings, **given)
    refuse_in_event_loop("plan")
    return anyio.run(
        lambda: plan_async(settings, selection=selected, allow_empty=allow_empty, split=split)
    )


async def plan_async(
    settings: Settings | None = None,
    *,
    selection: Selection | None = None,
    allow_empty: bool = False,
    split: bool = True,
    limit: Limit | None = None,
    **keywords: Unpack[ExportKeywords],
) -> list[Part]:
    """Return the parts of all line items that are selected, in the order of the invoices.

    Each part is a value that can be pickled and read by `read_part` in any process. The parts of a
    transfer have `part_rows` rows each (a setting), the last one as many as are left. For that, the
    service is asked for the first row of each part, and for a few rows past the end. With
    `split=False` nothing is asked, and each transfer is one part. Line items that come in a chain
    of continuation tokens are one part in any case. Those that Microsoft Graph exports have about
    one part for each file: the exports are waited for, and the lines of several files counted.
    `new_commerce_api` decides which these are, as for an export.

    What is selected, and how settings are given, is as for `bulkfetch.export_async`, and so are the
    errors: NotFoundError for a selection that the tenant does not have, without `allow_empty`;
    RequestError if the invoices cannot be listed; SettingsError, SignInError and
    ServerUnavailableError. Raises TransferError if an invoice of the list cannot be read. `limit`
    decides instead of a limit of its own when a request may be sent.
    """
    selected, given = split_keywords(selection, keywords)
    async with Client(settings, limit=limit, **given) as client:
        return await client.plan(selected, allow_empty=allow_empty, split=split)


def read_part(
    part: Part, settings: Settings | None = None, **keywords: Unpack[SettingsKeywords]
) -> pa.Table:
    """Read a part as `read_part_async` does, for scripts and for other processes.

    Raises BulkfetchError where an event loop is running, as in a notebook: there, await
    `read_part_async`.
    """
    settings = read_settings(settings, **keywords)
    refuse_in_event_loop("read_part")
    return anyio.run(lambda: read_part_async(part, settings))


async def read_part_async(
    part: Part,
    settings: Settings | None = None,
    *,
    limit: Limit | None = None,
    **keywords: Unpack[SettingsKeywords],
) -> pa.Table:
    """Return the rows of a part as an Arrow table, in the server's order.

    Schema and values are those of the files that `bulkfetch.export` writes, `invoice_id` and
    `line_number` (from 0 on in the transfer) included. Put together in order, the tables of all
    parts of a transfer have each of its rows once. A part has no credentials: settings are given as
    for `bulkfetch.export_async`. To read many parts, open one `bulkfetch.Client` and await its
    `read_part` for each: it keeps its connections, and what it has learned of the service's limit.

    Raises StalePartError if the transfer is not the one that was planned, NothingExportedError if
    Microsoft Graph has nothing of it though it should, another TransferError for a page that does
    not come, and SettingsError, SignInError or ServerUnavailableError. `limit` decides instead of a
    limit of its own when a request may be sent.
    """
    async with Client(settings, limit=limit, **keywords) as client:
        return await client.read_part(part)
