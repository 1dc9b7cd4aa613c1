"""Channel charting and latent channel prediction (after W-JEPA, arXiv 2409.10045)."""
