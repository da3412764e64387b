"""What the two sites of Graph share: exports, operations, manifests and signatures, and where they
are."""

from __future__ import annotations

from bulkfetch.sandbox.graph.exports import Export, Exports
from bulkfetch.sandbox.graph.manifests import Manifests
from bulkfetch.sandbox.graph.operations import Operations
from bulkfetch.sandbox.graph.sas import SasTokens
from bulkfetch.sandbox.origin import World


class Exporting:
    """The state of the fake Graph of one sandbox. Its addresses are known once it is served."""

    def __init__(self, world: World) -> None:
        seed = world.options.seed
        self.world = world
        self.exports = Exports(world.tenant)
        self.operations = Operations(seed, world.options.graph)
        self.manifests = Manifests(world.tenant, self.exports)
        self.sas = SasTokens(seed)
        self._first_sas: dict[str, str] = {}
        self.graph_url = ""
        self.blob_url = ""
        self.honeypot_url = ""

    def names(self) -> list[str]:
        """Return the names of all exports that have rows, as `usage/billed/G000700111`."""
        return self.exports.names()

    def rows(self, name: str, attribute_set: str = "full") -> list[bytes]:
        """Return the rows that an export has now, each as JSON, in the order of its blobs' names.

        Raises LookupError if there is no such export.
        """
        return self.exports.rows(name, attribute_set)

    def renew(self, name: str, change: str = "rows") -> None:
        """Make the data of an export anew; `change` is one of `faults.CHANGES`."""
        self.exports.renew(name, change)

    def fresh_sas(self, export: Export) -> str:
        """Return a new SAS for the blobs that an export has now."""
        options, now = self.world.options.graph, self.world.clock()
        return self.sas.issue(self.manifests.directory(export), now, options.sas_s)

    def first_sas(self, export: Export) -> str:
        """Return the SAS that the first request after the last POST for these blobs was given."""
        directory = self.manifests.directory(export)
        if directory not in self._first_sas:
            self._first_sas[directory] = self.fresh_sas(export)
        return self._first_sas[directory]

    def forget_sas(self, export: Export) -> None:
        """Give the blobs of an export a new SAS from now on."""
        self._first_sas.pop(self.manifests.directory(export), None)
