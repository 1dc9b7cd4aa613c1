"""The links themselves, without a model: error rates and goodput by SNR, closed forms beside them."""
