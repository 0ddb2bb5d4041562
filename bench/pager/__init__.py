"""Measure the page server against the kernel and the smallest page servers that can be written."""
