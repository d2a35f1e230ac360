"""Flax networks. Nothing here knows of diffusion: an image and a number go in, an image or the scores of classes come out."""
