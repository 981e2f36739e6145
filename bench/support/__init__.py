"""What the programs of bench/ share; run them from anywhere, as `python bench/NAME.py`."""
