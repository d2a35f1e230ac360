"""One pure train step, the mesh it runs on, the loop around it and the checkpoints it leaves."""
