"""The proof engine.  ``README.rst`` beside this file argues, step by step, why it may be believed."""
