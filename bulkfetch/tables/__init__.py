"""Tables of Delta Lake and Apache Iceberg that say what the commits of an archive say.

They name the archive's own Parquet files, and are derived state: `sync` compares and puts right.
Start with `sync`; `wanted` is what the commits say, `formats` what a format has to do.
"""
