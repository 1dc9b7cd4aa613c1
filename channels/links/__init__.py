"""Links: each takes packets and the radio's state and gives a Delivery."""
