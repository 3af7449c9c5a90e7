"""How reports fail. The messages are for the person who asked."""


class ReportError(ValueError):
    """A report was asked for what it cannot give; the message says what to ask instead."""


class BooksError(Exception):
    """Figures that must be equal are not: nothing is reported rather than something wrong."""
