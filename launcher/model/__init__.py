"""The model in memory: loaded sharded, quantised, adapted, partly frozen."""
