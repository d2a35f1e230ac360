"""Images: where they come from, how they are fitted to the network, how batches are made of them."""
