"""Whether a zero cotangent stays zero whatever it is multiplied with: a mode of each thread.

Zero times infinity is NaN; so the branch that ``where`` did not take, whose cotangent is exactly zero, makes the
gradient NaN if a partial on its way is infinite (``sqrt`` at 0). While ``exactness.on``, :meth:`Op.pull` and
:meth:`Op.push` give zero there. Only such products are replaced: where the partial is finite, the derivative of
the product is what it always was, also where a cotangent happens to be zero; so higher derivatives stay right.
"""

from __future__ import annotations

import threading


class _Exactness(threading.local):
    on: bool = False


exactness = _Exactness()
