"""The specification as a machine: guests' loads, stores and hypercalls turned into its steps, and compared.

``machine``      the stimuli, dispatch, copies of arguments
``memory_ops``   hypercall 12; ``grants`` hypercall 20; ``domctls`` hypercall 36; ``teardown`` the end of a domain
``shape``        the tree of stage-2 tables, which the specification leaves open
``tables``       tables that note what is touched; ``state_of`` the state after an implementation's boot
``projection``   neutral rows, and where two implementations differ; ``run`` traces
"""
