"""The differential fuzzer: random and seeded histories of guests, on the implementation and on the specification."""
