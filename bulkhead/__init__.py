"""The front door of Bulkhead: command line, reports, and the lint of the specification."""

__version__ = "0.1.0"
