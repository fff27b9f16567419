"""One file a task: how its rows become tokens, what its loss is, which metrics it reports."""
