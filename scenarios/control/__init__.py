"""Predictive remote control: a cart-pole seen by a camera and steered over the air (TS-JEPA)."""
