"""The sandbox's Microsoft Graph: the billing export, and the blobs that it leads to.

`serve` of `bulkfetch.sandbox` starts it with every sandbox, on origins of its own:

    async with serve(SandboxOptions(newest="2024-05")) as sandbox:
        sandbox.graph.url  # http://127.0.0.1:PORT, the setting graph_url
        sandbox.graph.token  # the setting graph_token; it opens nothing else
        sandbox.graph.blob_url  # where the blobs are; no request with a bearer token belongs there
        sandbox.graph.exporting.rows("reconciliation/billed/G000700111")  # what was drawn

`bulkfetch sandbox` says `graph_url`, `graph_token` and `blob_url` in its first line, and
`bulkfetch.sandbox.process.spawn` yields them. Begin reading at `api`, then `exports`.
"""
