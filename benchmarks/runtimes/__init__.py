"""The same bundles and inputs in every runtime, and the page that says what differs: `docs/runtimes.md`."""
