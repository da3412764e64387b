"""Where one machine ends: the parts of a tenant, read by many processes, as those of Spark.

Start with `parts`, then `source`, which gives them to Spark as a data source or as a frame. What
the processes share is held by `coordinator`, and asked for through `remote`.
"""
