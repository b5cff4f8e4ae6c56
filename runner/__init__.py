"""The batch runner: one watched process per song."""

__version__ = "0.1.0"
