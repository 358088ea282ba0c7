"""Strangers' programs are run here or nowhere: what a student or a teacher wrote is executed.

``runner`` is the side of the grader: it starts supervisors, probes what holds on this machine and
refuses where a program could not be bounded. A ``supervisor`` is a process that serves programs one
after another; ``confinement`` is what it keeps them in, and ``exchange`` how a program and its
tests, which are two processes, speak with each other. The last three use nothing but the standard
library: they are all that a program's process has loaded.
"""
