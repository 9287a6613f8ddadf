"""The routes of the service, one module per kind of answer; each adds its own to the application."""
