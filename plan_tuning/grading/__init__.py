"""The grader of final answers: where a text states its answer, and whether that equals the gold.

From the outside in: ``grader`` is the one entry (completion and problem in, verdict out).
``answers`` finds the answer, with ``numerals`` for numbers in running text. ``normalisation``
writes it in one notation, with ``characters``, ``spelling`` and ``decoration``. ``equivalence``
compares by the kind of the gold, with ``structure``, ``sets``, ``quantities``, ``scalars``,
``units``, ``words`` and ``arithmetic``. All of these are pure text work. What only algebra decides
goes through ``guards`` to ``symbolic``, in a ``worker`` process of the ``pool``, which can be
killed. ``votes`` groups equal answers of several samples.
"""
