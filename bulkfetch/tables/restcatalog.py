"""An Iceberg REST catalogue, asked as the settings say: proxies, certificates, time-outs."""

from __future__ import annotations

from typing import Any

import requests
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.io import FileIO
from pyiceberg.typedef import EMPTY_DICT, Properties

from bulkfetch.settings.declared import Settings
from bulkfetch.storage.proxied import send_by_settings
from bulkfetch.tables.servercatalog import OpenFiles


class Rest(RestCatalog):
    """A REST catalogue whose tables have files where the archive is."""

    def __init__(self, settings: Settings, open_files: OpenFiles, options: Properties) -> None:
        self._settings = settings
        self._open_files = open_files
        more: dict[str, Any] = {"oauth2-server-uri": f"{options['uri']}/v1/oauth/tokens"}
        if settings.ca_file is not None:
            more["ssl"] = {"cabundle": str(settings.ca_file)}
        super().__init__("bulkfetch", **{**more, **options})

    def _config_headers(self, session: requests.Session) -> None:
        # the first call for a new session: what follows may send a request
        send_by_settings(session, self._settings)
        super()._config_headers(session)

    def _load_file_io(
        self, properties: Properties = EMPTY_DICT, location: str | None = None
    ) -> FileIO:
        files = self._open_files({**self.properties, **properties}, location)
        return files or super()._load_file_io(properties, location)
