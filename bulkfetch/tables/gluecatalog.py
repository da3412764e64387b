"""AWS Glue as a catalogue, with the credentials that the archive's bucket is opened with."""

from __future__ import annotations

from pyiceberg.catalog.glue import GlueCatalog
from pyiceberg.io import FileIO
from pyiceberg.typedef import EMPTY_DICT, Properties

from bulkfetch.settings.declared import Settings
from bulkfetch.storage.s3 import open_glue
from bulkfetch.tables.servercatalog import OpenFiles


class Glue(GlueCatalog):
    """AWS Glue, whose tables have files where the archive is."""

    def __init__(self, settings: Settings, open_files: OpenFiles, options: Properties) -> None:
        self._open_files = open_files
        client = open_glue(settings, options.get("glue.endpoint"), options.get("glue.region"))
        super().__init__("AWS Glue", client, **options)

    def _load_file_io(
        self, properties: Properties = EMPTY_DICT, location: str | None = None
    ) -> FileIO:
        files = self._open_files({**self.properties, **properties}, location)
        return files or super()._load_file_io(properties, location)
