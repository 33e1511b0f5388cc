"""The functions that users call. Each brings its arguments into canonical form and applies primitives.

``elementwise``, ``reduction``, ``shaping``, ``indexing``, ``linalg``, ``creation``, ``conversion``: one family
each; ``arguments`` holds promotion and the canonical forms. What is not a primitive of :mod:`tracegrad.ir.ops`
is a composition here, marked with :func:`tracegrad.dispatch.composite` where torch's users see one operation.
"""
