"""One file per task, each with ``rows`` (asks everybody) and ``relrank`` (relrank's own part)."""
