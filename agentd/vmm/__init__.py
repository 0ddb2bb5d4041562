"""Drivers of virtual machine monitors."""
