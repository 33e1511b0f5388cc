"""The loops of a matrix product: register tiles, packing, partial sums.

The data structures are the plans, :class:`OuterPlan` and :class:`DotPlan`, which :mod:`.matmul`
makes and the emitters here follow. Start reading at :func:`emit_outer`.

An outer product keeps a tile of C in registers, ``rows`` broadcast elements by a few vectors, and walks
along k. Around it, k is cut into blocks such that the panel of the vector operand stays in the first
level cache while all tiles use it; what the tiles of one block give is added up in a buffer. Within a
block each element is summed in the order of k.
"""
