"""Stage-2 memory: machine frames, the mapping of each domain, and the calls that change them."""
