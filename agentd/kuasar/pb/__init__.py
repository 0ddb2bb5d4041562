"""Messages of the protocols beside; setup.py has protoc write the modules."""
