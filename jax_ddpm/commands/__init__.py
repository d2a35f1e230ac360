"""What `run.py --mode` can do, one file a mode."""
