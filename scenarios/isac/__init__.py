"""Cross-modal sensing: cameras and CSI receivers in a room; what is missing is inpainted."""
