"""Every proof must be able to fail: small changes to the specification that must be noticed."""
