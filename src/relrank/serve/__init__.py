"""Answers a user over HTTP: the service, its page, and what it is measured by."""
