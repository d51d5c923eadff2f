"""Parts of ``bench/compare.py``: what is measured, against what, and how it is shown."""
