"""The process of ``plan-tuning``: Ctrl-C counts from the first import on, which take a second."""

from __future__ import annotations

from plan_tuning import interruption

with interruption.reported():
    from plan_tuning.main import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
