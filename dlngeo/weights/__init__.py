"""Upstairs: the weights ``W = (W_1, …, W_N)`` of a network, and the balanced ones among them."""
