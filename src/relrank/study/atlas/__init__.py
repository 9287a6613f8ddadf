"""The atlas: what relations are worth over many data sets, from ordinary studies."""
