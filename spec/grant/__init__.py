"""Grants: a domain lends pages to another, and Xen keeps count.

Read ``entries`` (what a granter writes), then ``access`` (when Xen believes it), ``map`` and
``unmap``, and last ``invariants``: what nobody can break.
"""
