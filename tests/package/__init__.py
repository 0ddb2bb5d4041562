"""Install what is built on a Debian that has nothing else, use it, remove it."""
