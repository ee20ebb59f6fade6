"""Systematic mutants that nothing can notice, each with the reason why it is equivalent."""

EXPLAINED: dict[str, str] = {}
