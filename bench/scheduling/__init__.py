"""Parts of ``bench/scheduler.py`` and ``bench/scheduler_instructions.py``."""
