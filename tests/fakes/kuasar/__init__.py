"""Stand-ins for Kuasar's sandboxer."""
