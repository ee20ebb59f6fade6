"""The walks of the specification and of ``impl.fast`` on the same stage-2 tables, good and bad, of every shape."""
