"""Every setting as a keyword argument, with the types that may be given."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Literal, TypedDict

from bulkfetch.settings.proxies import ProxyChoice
from bulkfetch.settings.values import Secret


class SettingsKeywords(TypedDict, total=False):
    """The settings as keyword arguments of the library; None counts as not given.

    Secrets, paths and sizes may also be given as text. `config` names a TOML file of settings.
    """

    config: str | Path | None

    cloud: Literal["public", "china", "usgov"] | None
    base_url: str | None
    graph_url: str | None
    new_commerce_api: Literal["auto", "v1", "graph"] | None
    operation_deadline_s: float | None
    ca_file: str | Path | None
    proxy: str | ProxyChoice | None
    page_size: int | None
    invoice_page_size: int | None
    usage_period: Literal["previous", "current"] | None
    max_in_flight: int | None
    max_requests_per_second: float | None
    max_attempts: int | None
    connect_timeout_s: float | None
    first_byte_timeout_s: float | None
    read_timeout_s: float | None
    patience_s: float | None
    max_page_bytes: int | str | None
    max_waiting_bytes: int | str | None

    token: str | Secret | None
    graph_token: str | Secret | None
    token_command: str | Secret | None
    managed_identity: str | None
    tenant_id: str | None
    client_id: str | None
    client_secret: str | Secret | None
    client_certificate: str | Path | None
    refresh_token: str | Secret | None
    login_file: str | Path | None
    sign_in: (
        Literal["auto", "token", "command", "managed-identity", "user", "certificate", "secret"]
        | None
    )
    authority: str | None

    part_rows: int | None
    row_group_rows: int | None
    keep_snapshots: int | str | None
    deadline_s: float | None
    scratch_dir: str | Path | None

    storage_account: str | None
    storage_key: str | Secret | None
    storage_key_id: str | None
    storage_sas: str | Secret | None
    storage_profile: str | None
    storage_region: str | None
    storage_endpoint: str | None
    storage_credentials: str | Path | None
    storage_timeout_s: float | None
    storage_patience_s: float | None

    catalog: Literal["sqlite", "rest", "glue"] | None
    catalog_namespace: str | None
    catalog_options: str | Secret | None

    money_tolerance: str | Decimal | None
