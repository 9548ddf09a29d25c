"""What each architecture can do, measured on tiny random models, and the page that says so: `docs/architectures.md`."""
