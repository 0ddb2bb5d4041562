"""Every format on disk and in stores: a version, a kept file of each release, a rule for others."""
